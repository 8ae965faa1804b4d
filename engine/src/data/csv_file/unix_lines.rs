//! Line ends of other systems become plain ones, so that errors name the right line.

use std::io::{BufRead, Read, Result};

/// Windows' line ends read as `\n`: the CSV reader counts a line at its `\n`, which it takes with
/// the next record, and so would name the line before the one that it means.
pub(super) struct UnixLines<R> {
    inner: R,
    /// A `\r` was read whose next byte is not known yet.
    held: bool,
}

impl<R> UnixLines<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, held: false }
    }
}

impl<R: BufRead> Read for UnixLines<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut written = 0;
        while written == 0 && !out.is_empty() {
            let bytes = self.inner.fill_buf()?;
            if bytes.is_empty() {
                if std::mem::take(&mut self.held) {
                    out[0] = b'\r';
                    return Ok(1);
                }
                return Ok(0);
            }
            let mut taken = 0;
            while let (Some(&byte), true) = (bytes.get(taken), written < out.len()) {
                if std::mem::take(&mut self.held) && byte != b'\n' {
                    out[written] = b'\r';
                    written += 1;
                    continue;
                }
                taken += 1;
                if byte == b'\r' {
                    self.held = true;
                } else {
                    out[written] = byte;
                    written += 1;
                }
            }
            self.inner.consume(taken);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn only_a_return_before_a_line_feed_is_left_out_however_the_text_is_cut() {
        let text = "a\r\n\r\nb\rc\r\r\nd\n\r";
        for capacity in 1..=text.len() {
            let mut read = String::new();
            let inner = BufReader::with_capacity(capacity, text.as_bytes());
            UnixLines::new(inner).read_to_string(&mut read).unwrap();
            assert_eq!(read, "a\n\nb\rc\r\nd\n\r", "in pieces of {capacity}");
        }
    }
}
