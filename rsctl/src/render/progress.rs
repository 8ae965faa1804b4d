//! A job passing by: a bar on a terminal, plain lines in a pipe, JSON for programs.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use common::status::{JobState, JobStatus};
use service::exit::Failure;

use crate::follow::View;
use crate::render;
use crate::render::status::eta;
use crate::render::table::{number, rate};

/// In a pipe, progress lines come at most this often; changes of state always.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The view that fits where stderr goes.
pub(crate) fn for_people() -> Box<dyn View> {
    if render::is_terminal() { Box::new(Bar::new()) } else { Box::new(Lines::default()) }
}

/// What was said already, so that each thing is said once.
#[derive(Debug, Default)]
struct Said {
    state: Option<(JobState, String, Instant)>,
    notes: usize,
    checkpoint: Option<(String, Instant)>,
}

impl Said {
    /// The lines that this status adds.
    fn news(&mut self, status: &JobStatus) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.news_of_state(status));
        // A new attempt says its notes again; fewer than before means that it has begun.
        self.notes = self.notes.min(status.notes.len());
        lines.extend(status.notes[self.notes..].iter().map(|note| format!("note: {note}")));
        self.notes = status.notes.len();
        lines.extend(self.news_of_checkpoint(status));
        lines
    }
}

impl Said {
    /// A new state at once; a new reason for the same state only after a while, because ranks that
    /// start one by one change it many times a second.
    fn news_of_state(&mut self, status: &JobStatus) -> Option<String> {
        let (state, reason) = (status.row.state, &status.row.reason);
        let is_news = self.state.as_ref().is_none_or(|(said, why, when)| {
            *said != state || (why != reason && when.elapsed() >= LINE_EVERY)
        });
        if !is_news {
            return None;
        }
        self.state = Some((state, reason.clone(), Instant::now()));
        // Why a job failed is said once, as the error at the end.
        let is_said_later =
            reason.is_empty() || reason == state.as_str() || state == JobState::Failed;
        let why = if is_said_later { String::new() } else { format!(": {reason}") };
        Some(format!("{} {state}{why}", status.row.job_id))
    }

    /// Short epochs save many times a second; the last one is in the summary.
    fn news_of_checkpoint(&mut self, status: &JobStatus) -> Option<String> {
        let path = status.latest_checkpoint.as_ref()?;
        let is_news = self
            .checkpoint
            .as_ref()
            .is_none_or(|(said, when)| said != path && when.elapsed() >= LINE_EVERY);
        if !is_news {
            return None;
        }
        self.checkpoint = Some((path.clone(), Instant::now()));
        Some(format!("checkpoint {path}"))
    }
}

/// For a pipe or a log file.
#[derive(Debug, Default)]
struct Lines {
    said: Said,
    /// The step of the last line, and when that was.
    last: Option<(Instant, u64)>,
}

impl Lines {
    /// The lines that this status adds. The last step is always among them.
    fn news(&mut self, status: &JobStatus) -> Vec<String> {
        let mut lines = self.said.news(status);
        let step = status.live.as_ref().map_or(status.row.step, |live| live.step);
        let is_due = match self.last {
            Some((when, last)) => {
                step != last && (when.elapsed() >= LINE_EVERY || status.row.state.is_final())
            }
            None => step > 0,
        };
        if is_due {
            self.last = Some((Instant::now(), step));
            lines.push(render::status::progress(status));
        }
        lines
    }
}

impl View for Lines {
    fn status(&mut self, status: &JobStatus) -> Result<(), Failure> {
        self.news(status).into_iter().for_each(render::talk);
        Ok(())
    }

    fn talk(&mut self, text: &str) {
        render::talk(text);
    }
}

/// For a terminal.
struct Bar {
    said: Said,
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length().with_style(spinner());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { said: Said::default(), bar }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").expect("the template above is well-formed")
}

fn steps() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {msg}")
        .expect("the template above is well-formed")
        .progress_chars("=> ")
}

impl View for Bar {
    fn status(&mut self, status: &JobStatus) -> Result<(), Failure> {
        for line in self.said.news(status) {
            self.bar.println(line);
        }
        let state = status.row.state;
        match &status.live {
            Some(live) if live.step > 0 => {
                if let Some(length) = live.max_steps {
                    self.bar.set_length(length);
                    self.bar.set_style(steps());
                }
                self.bar.set_position(live.step);
                let mut parts = Vec::new();
                if live.max_steps.is_none() {
                    parts.push(format!("step {}", live.step));
                }
                if live.epochs > 0 {
                    parts.push(format!("epoch {}/{}", live.epoch, live.epochs));
                }
                parts.extend(live.loss.map(|loss| format!("loss {}", number(loss))));
                parts.extend(live.val_loss.map(|loss| format!("val {}", number(loss))));
                parts.extend(
                    live.val_accuracy.map(|part| format!("accuracy {:.2} %", part * 100.0)),
                );
                parts.extend(live.samples_per_second.map(|r| format!("{} samples/s", rate(r))));
                parts.extend(eta(live).map(|left| format!("ETA {left}")));
                self.bar.set_message(parts.join("  "));
            }
            _ => self.bar.set_message(format!("{state} {}", status.row.reason)),
        }
        if state.is_final() {
            self.bar.finish_and_clear();
        }
        Ok(())
    }

    fn talk(&mut self, text: &str) {
        self.bar.println(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One JSON object a line on stdout.
#[derive(Debug)]
pub(crate) struct JsonLines;

impl View for JsonLines {
    fn status(&mut self, status: &JobStatus) -> Result<(), Failure> {
        render::json_line(status)
    }

    fn talk(&mut self, text: &str) {
        render::talk(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::statuses::{running, succeeded};

    #[test]
    fn a_pipe_gets_the_last_step_also_when_it_comes_right_after_another() {
        let mut lines = Lines::default();
        let first = lines.news(&running());
        assert!(first.iter().any(|line| line.starts_with("step 120/400")), "{first:?}");
        // The end comes at once, and without live progress.
        let mut end = succeeded();
        end.live = None;
        end.row.step = 400;
        let last = lines.news(&end);
        assert_eq!(last.last().unwrap(), "step 400/400, loss 0.012345");
        assert!(!lines.news(&end).iter().any(|line| line.starts_with("step")), "said once");
    }
}
