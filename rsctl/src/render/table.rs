//! Plain tables without borders: they read well, and `awk` can read them too.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// Left or right, per column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table of text; an empty one still shows its header.
pub(crate) fn render<R>(columns: &[(&str, Align)], rows: R) -> String
where
    R: IntoIterator,
    R::Item: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(name, align)| cell((*name).to_owned(), *align)));
    for row in rows {
        let cells = row.into_iter().zip(columns).map(|(text, (_, align))| cell(text, *align));
        table.add_row(cells.collect::<Vec<_>>());
    }
    let count = table.column_count();
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == count { 0 } else { 2 }));
    }
    table.trim_fmt() + "\n"
}

fn cell(text: String, align: Align) -> Cell {
    // A cell is one line: what others wrote must not break the table.
    let text = text.replace(['\n', '\r', '\t'], " ");
    Cell::new(if text.is_empty() { "-".to_owned() } else { text }).set_alignment(match align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    })
}

/// `0.012346`, or `1.235e-5` where six digits after the point would say nothing.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&size) || !value.is_finite() {
        format!("{value:.6}")
    } else {
        format!("{value:.3e}")
    }
}

/// `4120`, `41.2`, `0.412`: three digits are what a rate is good for.
pub(crate) fn rate(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub(crate) fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}
