//! The output of a program as lines of a log, in bounded memory.

use std::time::SystemTime;

use homing::process::store::{LogLine, LogSource};

/// How much of a line is kept.
const LONGEST: usize = 60 << 10;

/// One of a program's outputs, as far as it is no whole line yet.
#[derive(Debug)]
pub(super) struct Lines {
    source: LogSource,
    kept: Vec<u8>,
    /// Bytes of this line that were not kept.
    skipped: u64,
}

impl Lines {
    pub(super) fn new(source: LogSource) -> Self {
        Lines { source, kept: Vec::new(), skipped: 0 }
    }

    /// Takes what was read, and adds the lines that are whole by it.
    pub(super) fn take(&mut self, mut read: &[u8], lines: &mut Vec<LogLine>) {
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            self.keep(&read[..end]);
            self.end(lines);
            read = &read[end + 1..];
        }
        self.keep(read);
    }

    /// Nothing more comes: what is there is the last line.
    pub(super) fn finish(&mut self, lines: &mut Vec<LogLine>) {
        if !self.kept.is_empty() {
            self.end(lines);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.skipped += (bytes.len() - room) as u64;
    }

    fn end(&mut self, lines: &mut Vec<LogLine>) {
        if self.kept.last() == Some(&b'\r') {
            self.kept.pop();
        }
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.skipped > 0 {
            text += &format!(" [{} more bytes]", self.skipped);
        }
        lines.push(LogLine::new(self.source, text, SystemTime::now()));
        self.kept.clear();
        self.skipped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut out) = (Lines::new(LogSource::Output), Vec::new());
        for chunk in chunks {
            lines.take(chunk, &mut out);
        }
        lines.finish(&mut out);
        out.iter().map(|line| line.text().to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_however_they_are_read() {
        assert_eq!(texts(&[b"a\nb", b"c\r\n", b"\n", b"d"]), ["a", "bc", "", "d"]);
        assert_eq!(texts(&["ü".as_bytes()[..1].as_ref(), "ü\n".as_bytes()[1..].as_ref()]), ["ü"]);
        assert_eq!(texts(&[b"\xff\n"]), ["\u{fffd}"]);
        assert!(texts(&[]).is_empty() && texts(&[b"\n"]) == [""]);
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let chunk = [b'x'; 16 << 10];
        let (mut lines, mut out) = (Lines::new(LogSource::Output), Vec::new());
        for _ in 0..1000 {
            lines.take(&chunk, &mut out);
        }
        assert!(lines.kept.len() <= LONGEST && out.is_empty());
        lines.take(b"\nshort\n", &mut out);
        assert!(out[0].text().ends_with("more bytes]") && out[0].text().len() < LONGEST + 40);
        assert_eq!(out[1].text(), "short");
    }
}
