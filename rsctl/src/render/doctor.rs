//! What the doctor found, a line each.

use std::fmt::Write as _;

use crate::doctor::{Check, Status};

pub(crate) fn lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.chars().count()).max().unwrap_or(0);
    checks.iter().fold(String::new(), |mut text, check| {
        let status = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        // A check is one line, whatever was found.
        let found = check.found.replace(['\n', '\r', '\t'], " ");
        let _ = write!(text, "{status}  {:width$}  {found}", check.id);
        if let Some(hint) = &check.hint {
            let _ = write!(text, "  -> {hint}");
        }
        text.push('\n');
        text
    })
}
