//! How much of its stack a thread has left, so that a wait within a wait is refused before the stack ends.

/// How much a wait needs for itself and for what it goes on with: callbacks, tasks, logging.
const RESERVE: usize = 128 << 10;

/// How much may lie between waits where the system does not report the size of the stack.
const UNKNOWN: usize = 128 << 10;

/// About where the stack of this thread stands.
#[inline(never)]
pub(crate) fn position() -> usize {
    let marker = 0_u8;
    std::ptr::from_ref(std::hint::black_box(&marker)).addr()
}

/// Whether one more wait may stand here, with the outermost at `base` and so much allowed between them.
pub(crate) fn has_room(base: usize, here: usize, limit: usize) -> bool {
    let used = base.abs_diff(here);
    used <= limit && lowest(here).map_or(used <= UNKNOWN || is_known(limit), |lowest| here - lowest >= RESERVE)
}

/// The limit of a thread that was made with a stack for it.
fn is_known(limit: usize) -> bool {
    limit == super::EVENT_LOOP_STACK
}

/// The lowest address that the stack of this thread may grow down to, where the system reports it.
#[cfg(all(target_os = "linux", not(homing_loom)))]
fn lowest(here: usize) -> Option<usize> {
    use std::cell::Cell;

    thread_local! {
        /// The bounds that were found, since reading them takes a while.
        static BOUNDS: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    }
    // Guards: a stack within the thread that is not the thread's, a coroutine's for instance.
    let known = BOUNDS.get().filter(|(lowest, end)| (*lowest..*end).contains(&here));
    let (lowest, _) = known.or_else(|| {
        let found = bounds(here, &std::fs::read_to_string("/proc/self/maps").ok()?, main_limit);
        BOUNDS.set(found);
        found
    })?;
    Some(lowest)
}

#[cfg(any(not(target_os = "linux"), homing_loom))]
fn lowest(_here: usize) -> Option<usize> {
    None
}

/// The bounds of the mapping around an address. That of the main thread grows, up to the limit of the process.
#[cfg(all(target_os = "linux", not(homing_loom)))]
fn bounds(here: usize, maps: &str, main_limit: impl FnOnce() -> Option<usize>) -> Option<(usize, usize)> {
    let (start, end, line) = maps.lines().find_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (start..end).contains(&here).then_some((start, end, line))
    })?;
    if line.ends_with("[stack]") { Some((end.saturating_sub(main_limit()?), end)) } else { Some((start, end)) }
}

/// How large the main thread's stack may become. Without a limit, as large as it usually is.
#[cfg(all(target_os = "linux", not(homing_loom)))]
fn main_limit() -> Option<usize> {
    const USUAL: usize = 8 << 20;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max stack size"))?;
    Some(line.split_whitespace().next()?.parse().unwrap_or(USUAL))
}

#[cfg(all(test, target_os = "linux", not(homing_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_stack_are_those_of_its_mapping() {
        let maps = "55d0-55e0 r-xp 00000000 08:01 1 /bin/x\n7f00-7f10 ---p 0 00:00 0\n7f10-7f90 rw-p 0 00:00 0\n\
                    8000-9000 rw-p 00000000 00:00 0                          [stack]\n";
        let none = || None;
        assert_eq!(bounds(0x7f20, maps, none), Some((0x7f10, 0x7f90)));
        assert_eq!(bounds(0x7fa0, maps, none), None);
        assert_eq!(bounds(0x8abc, maps, || Some(0x4000)), Some((0x5000, 0x9000)));
        assert_eq!(bounds(0x8abc, maps, none), None);
        assert_eq!(bounds(1, "no map at all", none), None);
    }

    #[test]
    fn a_thread_knows_its_own_stack() {
        const SIZE: usize = 512 << 10;
        let left = std::thread::Builder::new()
            .stack_size(SIZE)
            .spawn(|| {
                let here = position();
                here - lowest(here).unwrap()
            })
            .unwrap()
            .join()
            .unwrap();
        // glibc may give it the stack of a thread that has ended, of up to four times its size.
        assert!((SIZE / 2..=4 * SIZE + (64 << 10)).contains(&left), "{left} bytes of {SIZE}");
        let main_limit = main_limit().unwrap();
        assert!(main_limit >= 1 << 20, "{main_limit}");
    }
}
