//! What ranks write, where they would have written it themselves.

use proto::v1;
use service::exit::Failure;

use crate::log_reader::Lines;
use crate::render;

#[derive(Debug)]
pub(super) struct Printer {
    tells_rank: bool,
    /// Empty: all.
    ranks: Vec<u32>,
}

impl Printer {
    pub(super) fn new(tells_rank: bool, ranks: &[u32]) -> Self {
        Self { tells_rank, ranks: ranks.to_vec() }
    }
}

impl Lines for Printer {
    fn take(&mut self, message: v1::LogLines) -> Result<(), Failure> {
        if !self.ranks.is_empty() && !self.ranks.contains(&message.rank) {
            return Ok(());
        }
        if message.skipped > 0 {
            let (skipped, rank) = (message.skipped, message.rank);
            render::warning(format_args!("{skipped} lines of rank {rank} came too fast to show"));
        }
        let prefix =
            if self.tells_rank { format!("[rank {}] ", message.rank) } else { String::new() };
        for line in message.lines {
            let text = format!("{prefix}{}\n", line.text);
            match line.stderr {
                true => render::talk(text.trim_end_matches('\n')),
                false => render::raw(text.as_bytes())?,
            }
        }
        Ok(())
    }
}
