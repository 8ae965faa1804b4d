//! A line chart for a terminal: braille dots (2 x 4 to a character) between two axes.

use std::fmt::Write as _;

/// How the vertical axis grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// Size of the chart in characters, axes included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Room for the labels of the vertical axis.
const LABEL: usize = 10;
/// Dots of a character: across and down.
const DOTS: (usize, usize) = (2, 4);

/// A chart of `points` (x, y) in the order of x. Values that cannot be drawn are left out and
/// counted in the title.
pub(crate) fn render(title: &str, points: &[(f64, f64)], scale: Scale, size: Size) -> String {
    let drawable: Vec<(f64, f64)> = points
        .iter()
        .filter(|(x, y)| x.is_finite() && y.is_finite() && (scale == Scale::Linear || *y > 0.0))
        .map(|(x, y)| (*x, if scale == Scale::Log { y.log10() } else { *y }))
        .collect();
    let mut text = title.to_owned();
    let left_out = points.len() - drawable.len();
    if left_out > 0 {
        let _ = write!(text, " ({left_out} values that cannot be drawn left out)");
    }
    if drawable.is_empty() {
        return text + ": nothing to draw\n";
    }
    text.push('\n');
    let (x_range, y_range) =
        (Range::of(drawable.iter().map(|p| p.0)), Range::of(drawable.iter().map(|p| p.1)));
    let columns = size.columns.saturating_sub(LABEL + 2).max(8);
    let rows = size.rows.saturating_sub(3).max(3);
    let mut canvas = Canvas::new(columns, rows);
    let at = |(x, y): (f64, f64)| {
        let across = x_range.place(x, canvas.width() - 1);
        (across, canvas.height() - 1 - y_range.place(y, canvas.height() - 1))
    };
    let dots: Vec<(usize, usize)> = drawable.iter().map(|p| at(*p)).collect();
    canvas.dot(dots[0]);
    for pair in dots.windows(2) {
        canvas.line(pair[0], pair[1]);
    }
    let value = |y: f64| if scale == Scale::Log { 10f64.powf(y) } else { y };
    for (row, line) in canvas.lines().enumerate() {
        let fraction = 1.0 - row as f64 / (rows - 1) as f64;
        // Labels at the top, the middle and the bottom.
        let label = if row == 0 || row == rows - 1 || row == rows / 2 {
            short(value(y_range.low + fraction * (y_range.high - y_range.low)))
        } else {
            String::new()
        };
        let tick = if label.is_empty() { '│' } else { '┤' };
        let _ = writeln!(text, "{label:>LABEL$} {tick}{}", line.trim_end_matches('\u{2800}'));
    }
    let _ = writeln!(text, "{:>LABEL$} └{}", "", "─".repeat(columns));
    let (low, high) = (short(x_range.low), short(x_range.high));
    let gap = columns.saturating_sub(low.len() + high.len());
    let _ = writeln!(text, "{:>LABEL$}  {low}{:gap$}{high}", "", "");
    text
}

/// The values of one axis.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        // A flat line is drawn in the middle of a range around it.
        if low == high {
            let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            return Self { low: low - margin, high: high + margin };
        }
        Self { low, high }
    }

    fn place(self, value: f64, last: usize) -> usize {
        let fraction = (value - self.low) / (self.high - self.low);
        // `as` saturates, and the fraction is in 0..=1 up to rounding.
        ((fraction * last as f64).round() as usize).min(last)
    }
}

fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}")
    }
}

struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<u8>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, cells: vec![0; columns * rows] }
    }

    fn width(&self) -> usize {
        self.columns * DOTS.0
    }

    fn height(&self) -> usize {
        self.rows * DOTS.1
    }

    fn dot(&mut self, (x, y): (usize, usize)) {
        /// Unicode's numbering of the dots, [down][across].
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let cell = (y / DOTS.1) * self.columns + x / DOTS.0;
        self.cells[cell] |= BITS[y % DOTS.1][x % DOTS.0];
    }

    /// Every dot between two, by the longer axis.
    fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        let between = |a: usize, b: usize, step: usize| {
            let (a, b) = (a as f64, b as f64);
            (a + (b - a) * step as f64 / steps as f64).round() as usize
        };
        for step in 0..=steps {
            self.dot((between(from.0, to.0, step), between(from.1, to.1, step)));
        }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        // 0x2800 plus a byte is always a braille pattern.
        let braille = |bits: &u8| char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' ');
        self.cells.chunks(self.columns).map(move |row| row.iter().map(braille).collect())
    }
}
