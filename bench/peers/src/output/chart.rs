//! Bars on a logarithmic scale, as SVG: dark text on white, no fonts but the reader's.

use std::fmt::Write;

pub struct Chart {
    pub title: String,
    pub subtitle: String,
    /// What the first and the second bar of a line are.
    pub series: [String; 2],
    pub sections: Vec<Section>,
}

pub struct Section {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// A line with up to two bars.
pub struct Bar {
    pub label: String,
    pub kind: Kind,
    /// A figure, or why there is none.
    pub values: [Option<Result<f64, String>>; 2],
    pub unit: Unit,
}

/// How figures are written: at the end of a bar, and below the scale, where there are only powers of ten.
#[derive(Clone, Copy)]
pub struct Unit {
    pub figure: fn(f64) -> String,
    pub tick: fn(f64) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Locked,
    Readable,
    Floor,
}

impl Kind {
    /// Of the first and of the second bar.
    fn colours(self) -> [&'static str; 2] {
        match self {
            Self::Ours => ["#0b5fa5", "#7db8e8"],
            Self::Locked => ["#6b6b6b", "#b5b5b5"],
            Self::Readable => ["#c98a2b", "#ecd2a4"],
            Self::Floor => ["#8f9f8f", "#ccd6cc"],
        }
    }
}

const WIDTH: f64 = 960.0;
/// Where the bars begin and end.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 830.0;
const TOP: f64 = 92.0;
const BAR: f64 = 10.0;
const LINE: f64 = 28.0;
const HEADING: f64 = 30.0;

/// Powers of ten that hold all figures.
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            least = least.min(value);
            most = most.max(value);
        }
        // A bar of the least figure has some length too.
        let from = (least / 1.5).log10().floor();
        let to = most.log10().ceil().max(from + 1.0);
        (most > 0.0).then_some(Self { from: from as i32, to: to as i32 })
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

impl Chart {
    pub fn svg(&self) -> String {
        let bars = self.sections.iter().flat_map(|section| &section.bars);
        let values =
            bars.clone().flat_map(|bar| bar.values.iter().flatten().filter_map(|it| it.as_ref().ok()));
        let scale = Scale::of(values.copied()).unwrap_or(Scale { from: 0, to: 1 });
        let lines = bars.clone().count() as f64;
        let height = TOP + HEADING * self.sections.len() as f64 + LINE * lines + 40.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, sans-serif\" fill=\"#1a1a1a\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, 20.0, 30.0, "font-size=\"18\" font-weight=\"bold\"", &self.title);
        text(&mut out, 20.0, 50.0, "font-size=\"12\" fill=\"#444444\"", &self.subtitle);
        self.legend(&mut out);
        if let Some(unit) = bars.clone().next().map(|bar| bar.unit) {
            grid(&mut out, &scale, height - 34.0, unit);
        }
        let mut y = TOP;
        for section in &self.sections {
            text(&mut out, 20.0, y + 20.0, "font-size=\"13\" font-weight=\"bold\"", &section.title);
            y += HEADING;
            for bar in &section.bars {
                line(&mut out, bar, y, &scale);
                y += LINE;
            }
        }
        out.push_str("</svg>\n");
        out
    }

    fn legend(&self, out: &mut String) {
        let mut x = 20.0;
        for (index, name) in self.series.iter().enumerate() {
            for kind in [Kind::Ours, Kind::Locked] {
                let _ = writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"62\" width=\"12\" height=\"12\" fill=\"{}\"/>",
                    kind.colours()[index]
                );
                x += 15.0;
            }
            text(out, x + 2.0, 72.5, "font-size=\"12\"", name);
            x += 24.0 + 6.6 * name.chars().count() as f64;
        }
    }
}

fn grid(out: &mut String, scale: &Scale, bottom: f64, unit: Unit) {
    for power in scale.from..=scale.to {
        let x = scale.x(10_f64.powi(power));
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>",
            TOP + 6.0
        );
        text(
            out,
            x,
            bottom + 16.0,
            "font-size=\"11\" text-anchor=\"middle\" fill=\"#444444\"",
            &(unit.tick)(10_f64.powi(power)),
        );
    }
}

fn line(out: &mut String, bar: &Bar, y: f64, scale: &Scale) {
    let weight = if bar.kind == Kind::Ours { " font-weight=\"bold\"" } else { "" };
    let style = format!("font-size=\"12\" text-anchor=\"end\"{weight}");
    text(out, LEFT - 8.0, y + BAR + 4.0, &style, &bar.label);
    for (index, value) in bar.values.iter().enumerate() {
        let top = y + index as f64 * (BAR + 1.0) + 1.0;
        let base = top + BAR - 1.0;
        match value {
            None => {}
            Some(Err(end)) => text(out, LEFT + 4.0, base, "font-size=\"11\" fill=\"#b00020\"", end),
            Some(Ok(value)) if *value > 0.0 => {
                let x = scale.x(*value);
                let _ = writeln!(
                    out,
                    "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                    x - LEFT,
                    bar.kind.colours()[index]
                );
                text(out, x + 5.0, base, "font-size=\"11\"", &(bar.unit.figure)(*value));
            }
            Some(Ok(value)) => text(out, LEFT + 5.0, base, "font-size=\"11\"", &(bar.unit.figure)(*value)),
        }
    }
}

fn text(out: &mut String, x: f64, y: f64, style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_scale_holds_all_and_is_logarithmic() {
        let scale = Scale::of([250.0, 19_000.0, 0.0].into_iter()).unwrap();
        assert_eq!((scale.from, scale.to), (2, 5));
        assert_eq!(scale.x(100.0), LEFT);
        assert_eq!(scale.x(100_000.0), RIGHT);
        let step = (RIGHT - LEFT) / 3.0;
        assert!((scale.x(1000.0) - LEFT - step).abs() < 1e-9);
        assert!(Scale::of([0.0].into_iter()).is_none());
        // The least one has a bar, too.
        assert_eq!(Scale::of([100.0].into_iter()).unwrap().from, 1);
    }

    #[test]
    fn what_is_written_is_escaped() {
        let mut out = String::new();
        text(&mut out, 0.0, 0.0, "", "a<b & c");
        assert!(out.contains("a&lt;b &amp; c"), "{out}");
    }
}
