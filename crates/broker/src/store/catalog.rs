//! All segments with what lives in them: where each copy is.

use super::segment::{Extent, Segment};

/// Segments in the order of their copies' ids. The ranges of their ids do not overlap: the log is appended to with
/// ascending ids, and a pack takes the place of neighbours.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Complete segments with at least one live copy.
    pub(crate) complete: Vec<Segment>,
    pub(crate) head: Option<Segment>,
}

/// Where a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file_name: String,
    pub(crate) number: u64,
    pub(crate) seed: u32,
    pub(crate) extent: Extent,
}

impl Catalog {
    fn segment_of(&self, copy: u64) -> Option<usize> {
        self.complete.partition_point(|segment| segment.first_copy().is_some_and(|first| first <= copy)).checked_sub(1)
    }

    pub(crate) fn locate(&self, copy: u64) -> Option<Place> {
        let find = |segment: &Segment| {
            let extent = segment.locate(copy)?;
            Some(Place { file_name: segment.file_name(), number: segment.number, seed: segment.seed(), extent })
        };
        let complete = self.segment_of(copy).and_then(|at| find(&self.complete[at]));
        complete.or_else(|| self.head.as_ref().and_then(find))
    }

    /// Whether a copy is in a complete segment.
    pub(crate) fn is_live(&self, copy: u64) -> bool {
        self.segment_of(copy).is_some_and(|at| self.complete[at].locate(copy).is_some())
    }

    /// Forgets a copy. Returns the bytes that nothing needs any more, and the segment if nothing in it is needed.
    pub(crate) fn forget(&mut self, copy: u64) -> (u64, Option<Segment>) {
        if let Some(at) = self.segment_of(copy)
            && let Some(dead) = self.complete[at].forget(copy)
        {
            let emptied = self.complete[at].live_copies == 0;
            return (dead, emptied.then(|| self.complete.remove(at)));
        }
        (self.head.as_mut().and_then(|head| head.forget(copy)).unwrap_or(0), None)
    }

    pub(crate) fn live_copies(&self) -> usize {
        self.complete.iter().chain(&self.head).map(|segment| segment.live_copies).sum()
    }

    /// Bytes of all segments, and of the records in them that are live.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.complete
            .iter()
            .chain(&self.head)
            .fold((0, 0), |(all, live), segment| (all + segment.length, live + segment.live_bytes))
    }

    /// Puts a pack in the place of the segments that it was made of; returns those that were still there.
    pub(crate) fn replace(&mut self, replaced: &[u64], pack: Segment) -> Vec<Segment> {
        let (gone, kept) =
            std::mem::take(&mut self.complete).into_iter().partition(|segment| replaced.contains(&segment.number));
        self.complete = kept;
        if let (Some(first), 1..) = (pack.first_copy(), pack.live_copies) {
            let at = self.complete.partition_point(|segment| segment.first_copy() < Some(first));
            self.complete.insert(at, pack);
        }
        gone
    }

    /// Neighbours that are worth being written into one pack, so that all files together have no more than twice the live
    /// bytes and `slack`, and are not too many.
    pub(crate) fn choose_pack(&self, segment_bytes: u64, slack: u64) -> Option<std::ops::Range<usize>> {
        if let Some(at) = self.complete.iter().position(|segment| segment.has_gaps) {
            // Guards: if its index were damaged as well, its slots could not be told from its own bytes.
            return Some(at..at + 1);
        }
        let (all, live) = self.bytes();
        if all > live * 2 + slack {
            self.deadest_run(segment_bytes)
        } else if self.complete.len() as u64 > 16 + all * 4 / segment_bytes {
            self.longest_run(segment_bytes)
        } else {
            None
        }
    }

    /// The segment with the least live part, and mostly dead neighbours, as long as the pack is no longer than a segment.
    fn deadest_run(&self, segment_bytes: u64) -> Option<std::ops::Range<usize>> {
        let part = |segment: &Segment| (segment.live_bytes << 10).checked_div(segment.length).unwrap_or(u64::MAX);
        let (at, least) = self.complete.iter().enumerate().min_by_key(|(_, segment)| part(segment))?;
        if !least.is_mostly_dead() {
            return None;
        }
        let mut live = least.live_bytes;
        let mut take = |segment: &&Segment| {
            let fits = segment.is_mostly_dead() && live + segment.live_bytes <= segment_bytes;
            live += if fits { segment.live_bytes } else { 0 };
            fits
        };
        let after = self.complete[at + 1..].iter().take_while(&mut take).count();
        let before = self.complete[..at].iter().rev().take_while(&mut take).count();
        Some(at - before..at + after + 1)
    }

    /// The most neighbours that fit into one segment.
    fn longest_run(&self, segment_bytes: u64) -> Option<std::ops::Range<usize>> {
        let (mut start, mut live, mut best) = (0, 0, 0..0);
        for (at, segment) in self.complete.iter().enumerate() {
            live += segment.live_bytes;
            while live > segment_bytes && start <= at {
                live -= self.complete[start].live_bytes;
                start += 1;
            }
            if at + 1 - start > best.len() {
                best = start..at + 1;
            }
        }
        (best.len() > 1).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::SegmentKind;
    use super::*;

    fn segment(number: u64, copies: std::ops::Range<u64>) -> Segment {
        let mut segment = Segment::new(number, SegmentKind::Log, 0, 128);
        for copy in copies {
            segment.push(Extent { offset: segment.length as u32, length: 100 }, [copy].into_iter());
            segment.length += 100;
        }
        segment
    }

    fn catalog() -> Catalog {
        let mut complete: Vec<_> = (0..6).map(|number| segment(number, number * 100..number * 100 + 50)).collect();
        for segment in &mut complete[2..5] {
            for copy in 0..40 {
                segment.forget(segment.number * 100 + copy);
            }
        }
        Catalog { complete, head: Some(segment(6, 600..610)) }
    }

    #[test]
    fn copies_are_found_in_complete_segments_and_in_the_head() {
        let mut catalog = catalog();
        for (copy, number) in
            [(0, Some(0)), (149, Some(1)), (150, None), (239, None), (240, Some(2)), (605, Some(6)), (610, None)]
        {
            assert_eq!(catalog.locate(copy).map(|place| place.number), number, "{copy}");
        }
        assert_eq!(catalog.forget(605).0, 100);
        assert_eq!(catalog.forget(605).0, 0);
        for copy in 240..249 {
            assert!(catalog.forget(copy).1.is_none());
        }
        assert_eq!(catalog.forget(249).1.unwrap().number, 2);
        assert_eq!(catalog.complete.len(), 5);
    }

    #[test]
    fn mostly_dead_neighbours_are_packed_together_as_far_as_they_fit() {
        let mut catalog = catalog();
        assert_eq!(catalog.choose_pack(5_000, 10_000), None);
        assert_eq!(catalog.deadest_run(5_000), Some(2..5));
        assert_eq!(catalog.deadest_run(2_000), Some(2..4));
        let pack = segment(9, 240..250);
        let gone = catalog.replace(&[2, 3, 4], pack);
        assert_eq!(gone.iter().map(|segment| segment.number).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(catalog.complete.iter().map(|segment| segment.number).collect::<Vec<_>>(), [0, 1, 9, 5]);
        assert_eq!(catalog.locate(245).unwrap().number, 9);
        assert_eq!(catalog.longest_run(100_000), Some(0..4));
        assert_eq!(catalog.longest_run(6_000), Some(1..3));
        assert_eq!(catalog.longest_run(100), None);
    }
}
