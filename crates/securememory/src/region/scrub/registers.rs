//! The vector registers of processors other than x86-64. Registers that a function has to keep for its caller are cleared like
//! the others, and then have again what the caller had in them.

// Reason: assembly; every block says why it is sound.
#![allow(unsafe_code)]

/// All of them: writing zero to one clears its scalable extension (SVE, and the streaming mode of SME) as well. What SME
/// keeps in its array no cipher uses.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn clear() {
    // SAFETY: only clears registers, all of which are declared as clobbered.
    unsafe {
        std::arch::asm!(
            "movi v0.2d, #0", "movi v1.2d, #0", "movi v2.2d, #0", "movi v3.2d, #0",
            "movi v4.2d, #0", "movi v5.2d, #0", "movi v6.2d, #0", "movi v7.2d, #0",
            "movi v8.2d, #0", "movi v9.2d, #0", "movi v10.2d, #0", "movi v11.2d, #0",
            "movi v12.2d, #0", "movi v13.2d, #0", "movi v14.2d, #0", "movi v15.2d, #0",
            "movi v16.2d, #0", "movi v17.2d, #0", "movi v18.2d, #0", "movi v19.2d, #0",
            "movi v20.2d, #0", "movi v21.2d, #0", "movi v22.2d, #0", "movi v23.2d, #0",
            "movi v24.2d, #0", "movi v25.2d, #0", "movi v26.2d, #0", "movi v27.2d, #0",
            "movi v28.2d, #0", "movi v29.2d, #0", "movi v30.2d, #0", "movi v31.2d, #0",
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
            out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _,
            out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _,
            out("v30") _, out("v31") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// The eight that there are in 32 bits. An AVX instruction clears the upper parts, too.
#[cfg(target_arch = "x86")]
#[inline]
pub(super) fn clear() {
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: AVX is there; all registers that are cleared are declared as clobbered.
        unsafe {
            std::arch::asm!(
                "vpxor xmm0, xmm0, xmm0", "vpxor xmm1, xmm1, xmm1",
                "vpxor xmm2, xmm2, xmm2", "vpxor xmm3, xmm3, xmm3",
                "vpxor xmm4, xmm4, xmm4", "vpxor xmm5, xmm5, xmm5",
                "vpxor xmm6, xmm6, xmm6", "vpxor xmm7, xmm7, xmm7",
                "vzeroupper",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                options(nomem, nostack, preserves_flags)
            );
        }
    } else if std::arch::is_x86_feature_detected!("sse") {
        // SAFETY: SSE is there; as above.
        unsafe {
            std::arch::asm!(
                "xorps xmm0, xmm0", "xorps xmm1, xmm1", "xorps xmm2, xmm2", "xorps xmm3, xmm3",
                "xorps xmm4, xmm4", "xorps xmm5, xmm5", "xorps xmm6, xmm6", "xorps xmm7, xmm7",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// d0 to d15, which every processor with floating point has, and d16 to d31 where the kernel says that they are there.
#[cfg(all(target_arch = "arm", target_feature = "vfp2"))]
#[inline]
pub(super) fn clear() {
    // Linux, arch/arm/include/uapi/asm/hwcap.h
    const ALL_32: libc::c_ulong = 1 << 19;
    // SAFETY: only clears registers, all of which are declared as clobbered.
    unsafe {
        std::arch::asm!(
            "vmov d0, {zero}, {zero}", "vmov d1, {zero}, {zero}", "vmov d2, {zero}, {zero}",
            "vmov d3, {zero}, {zero}", "vmov d4, {zero}, {zero}", "vmov d5, {zero}, {zero}",
            "vmov d6, {zero}, {zero}", "vmov d7, {zero}, {zero}", "vmov d8, {zero}, {zero}",
            "vmov d9, {zero}, {zero}", "vmov d10, {zero}, {zero}", "vmov d11, {zero}, {zero}",
            "vmov d12, {zero}, {zero}", "vmov d13, {zero}, {zero}", "vmov d14, {zero}, {zero}",
            "vmov d15, {zero}, {zero}",
            zero = in(reg) 0_u32,
            out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _,
            out("d6") _, out("d7") _, out("d8") _, out("d9") _, out("d10") _, out("d11") _,
            out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            options(nomem, nostack, preserves_flags)
        );
    }
    // SAFETY: getauxval only reads the vector that the kernel gave the program.
    if unsafe { libc::getauxval(libc::AT_HWCAP) } & ALL_32 != 0 {
        upper_half();
    }
}

/// By their numbers, `vmov.i32 q8, #0` to q15, since the crate is compiled for processors without them.
#[cfg(all(target_arch = "arm", target_feature = "vfp2"))]
#[inline(never)]
extern "C" fn upper_half() {
    // SAFETY: only where the registers are, as the caller has looked. No function has to keep them for its caller
    // (AAPCS32, 6.1.2.1), and this one is not inlined.
    unsafe {
        std::arch::asm!(
            ".inst 0xf2c00050",
            ".inst 0xf2c20050",
            ".inst 0xf2c40050",
            ".inst 0xf2c60050",
            ".inst 0xf2c80050",
            ".inst 0xf2ca0050",
            ".inst 0xf2cc0050",
            ".inst 0xf2ce0050",
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// The floating point registers, and the vector registers, of which those are parts, where the kernel says that they are
/// there.
#[cfg(target_arch = "s390x")]
#[inline]
pub(super) fn clear() {
    // Linux, arch/s390/include/asm/elf.h
    const VECTORS: libc::c_ulong = 1 << 11;
    // SAFETY: getauxval only reads the vector that the kernel gave the program.
    if unsafe { libc::getauxval(libc::AT_HWCAP) } & VECTORS != 0 {
        vectors();
        return;
    }
    // SAFETY: only clears registers, all of which are declared as clobbered.
    unsafe {
        std::arch::asm!(
            "lzdr %f0", "lzdr %f1", "lzdr %f2", "lzdr %f3", "lzdr %f4",
            "lzdr %f5", "lzdr %f6", "lzdr %f7", "lzdr %f8", "lzdr %f9",
            "lzdr %f10", "lzdr %f11", "lzdr %f12", "lzdr %f13", "lzdr %f14",
            "lzdr %f15",
            out("f0") _, out("f1") _, out("f2") _, out("f3") _, out("f4") _, out("f5") _,
            out("f6") _, out("f7") _, out("f8") _, out("f9") _, out("f10") _, out("f11") _,
            out("f12") _, out("f13") _, out("f14") _, out("f15") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// By their bytes, `vgbm %v0, 0` to v31, since the crate is compiled for processors without them.
#[cfg(target_arch = "s390x")]
#[inline(never)]
extern "C" fn vectors() {
    // SAFETY: only where the registers are, as the caller has looked. Of v0 to v15 the parts that are floating point
    // registers are declared as clobbered; the rest no function has to keep for its caller, and this one is not inlined.
    unsafe {
        std::arch::asm!(
                ".byte 0xe7, 0x00, 0, 0, 0, 0x44", ".byte 0xe7, 0x10, 0, 0, 0, 0x44",
                ".byte 0xe7, 0x20, 0, 0, 0, 0x44", ".byte 0xe7, 0x30, 0, 0, 0, 0x44",
                ".byte 0xe7, 0x40, 0, 0, 0, 0x44", ".byte 0xe7, 0x50, 0, 0, 0, 0x44",
                ".byte 0xe7, 0x60, 0, 0, 0, 0x44", ".byte 0xe7, 0x70, 0, 0, 0, 0x44",
                ".byte 0xe7, 0x80, 0, 0, 0, 0x44", ".byte 0xe7, 0x90, 0, 0, 0, 0x44",
                ".byte 0xe7, 0xa0, 0, 0, 0, 0x44", ".byte 0xe7, 0xb0, 0, 0, 0, 0x44",
                ".byte 0xe7, 0xc0, 0, 0, 0, 0x44", ".byte 0xe7, 0xd0, 0, 0, 0, 0x44",
                ".byte 0xe7, 0xe0, 0, 0, 0, 0x44", ".byte 0xe7, 0xf0, 0, 0, 0, 0x44",
                ".byte 0xe7, 0x00, 0, 0, 8, 0x44", ".byte 0xe7, 0x10, 0, 0, 8, 0x44",
                ".byte 0xe7, 0x20, 0, 0, 8, 0x44", ".byte 0xe7, 0x30, 0, 0, 8, 0x44",
                ".byte 0xe7, 0x40, 0, 0, 8, 0x44", ".byte 0xe7, 0x50, 0, 0, 8, 0x44",
                ".byte 0xe7, 0x60, 0, 0, 8, 0x44", ".byte 0xe7, 0x70, 0, 0, 8, 0x44",
                ".byte 0xe7, 0x80, 0, 0, 8, 0x44", ".byte 0xe7, 0x90, 0, 0, 8, 0x44",
                ".byte 0xe7, 0xa0, 0, 0, 8, 0x44", ".byte 0xe7, 0xb0, 0, 0, 8, 0x44",
                ".byte 0xe7, 0xc0, 0, 0, 8, 0x44", ".byte 0xe7, 0xd0, 0, 0, 8, 0x44",
                ".byte 0xe7, 0xe0, 0, 0, 8, 0x44", ".byte 0xe7, 0xf0, 0, 0, 8, 0x44",
            out("f0") _, out("f1") _, out("f2") _, out("f3") _, out("f4") _, out("f5") _,
            out("f6") _, out("f7") _, out("f8") _, out("f9") _, out("f10") _, out("f11") _,
            out("f12") _, out("f13") _, out("f14") _, out("f15") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Others: stable Rust has no assembly for them, or we do not know their registers. They stay, which SECURITY.md says.
#[cfg(not(any(
    target_arch = "aarch64",
    target_arch = "x86",
    all(target_arch = "arm", target_feature = "vfp2"),
    target_arch = "s390x"
)))]
#[inline]
pub(super) fn clear() {}
