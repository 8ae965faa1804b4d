//! A child's output as lines of bounded length.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// A longer line goes on as the next one.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

/// One line that a trainer wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) time_ms: u64,
    pub(crate) text: String,
    pub(crate) stderr: bool,
}

/// Reads until the pipe ends or nobody listens. Cancel-safe: unsent bytes are lost with the task.
pub(crate) async fn read_lines(mut pipe: pipe::Receiver, stderr: bool, out: mpsc::Sender<Line>) {
    let mut pending = Vec::new();
    let mut chunk = vec![0; 8 << 10];
    loop {
        let read = match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        pending.extend_from_slice(&chunk[..read]);
        for text in take_lines(&mut pending) {
            if out.send(Line { time_ms: unix_millis(), text, stderr }).await.is_err() {
                return;
            }
        }
    }
    if !pending.is_empty() {
        let line = Line { time_ms: unix_millis(), text: to_text(&pending), stderr };
        // Nobody listens: there is nothing more to do either way.
        let _ = out.send(line).await;
    }
}

/// Takes whole lines, and pieces of a line that is too long, out of `pending`.
fn take_lines(pending: &mut Vec<u8>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut start = 0;
    loop {
        let rest = &pending[start..];
        let window = &rest[..rest.len().min(MAX_LINE_BYTES)];
        match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                lines.push(to_text(&window[..end]));
                start += end + 1;
            }
            None if window.len() == MAX_LINE_BYTES => {
                lines.push(to_text(window));
                start += MAX_LINE_BYTES;
            }
            None => break,
        }
    }
    pending.drain(..start);
    lines
}

fn to_text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_across_reads_are_joined_and_the_rest_waits() {
        let mut pending = b"one\r\ntwo\nthr".to_vec();
        assert_eq!(take_lines(&mut pending), ["one", "two"]);
        pending.extend_from_slice(b"ee\n\n");
        assert_eq!(take_lines(&mut pending), ["three", ""]);
        assert!(pending.is_empty());
    }

    #[test]
    fn an_endless_line_is_cut_and_never_grows_the_buffer() {
        let mut pending = vec![b'x'; 3 * MAX_LINE_BYTES + 5];
        let lines = take_lines(&mut pending);
        assert_eq!(lines.len(), 3);
        assert_eq!(pending.len(), 5);
    }

    #[test]
    fn bytes_that_are_not_text_become_text() {
        assert_eq!(to_text(&[b'a', 0xff]), "a\u{fffd}");
    }
}
