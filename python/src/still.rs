//! A thread that the interpreter ends within Rust's frames.
//!
//! An interpreter before 3.14 that ends does not wait for a daemon thread: when the thread wants the interpreter's lock back, it is ended
//! by `pthread_exit`. In glibc that unwinds the stack. Rust's frames on it would run their destructors without the lock, and the first
//! `catch_unwind` would abort the process. Any call into Python may give the lock away, even the making of an object, so no guard within
//! our functions comes before all of them. What does come first is a cleanup handler of the thread, if its record does not lie on
//! the thread's stack: glibc calls those handlers whose record the unwinding has passed, and takes a lower address for one that it
//! has. So a thread that comes into our functions has a handler, which lets it stand still for good once the interpreter ends, as
//! later interpreters do. Other C libraries call no destructor in `pthread_exit`.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) use glibc::arm;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn arm() {}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::cell::OnceCell;
    use std::ffi::{c_int, c_void};
    use std::mem;
    use std::ptr;
    use std::thread;

    use crate::life;

    /// `struct _pthread_cleanup_buffer` of glibc's `pthread.h`, the same on every machine; part of the Linux Standard Base.
    #[repr(C)]
    struct Record {
        routine: Option<extern "C" fn(*mut c_void)>,
        argument: *mut c_void,
        cancel_type: c_int,
        previous: *mut Record,
    }

    type Push = unsafe extern "C" fn(*mut Record, extern "C" fn(*mut c_void), *mut c_void);

    thread_local! {
        /// Freed when the thread ends, after its last cleanup handler.
        static ARMED: OnceCell<Box<Record>> = const { OnceCell::new() };
    }

    extern "C" fn stand_still(_: *mut c_void) {
        // Whoever else ends a thread of theirs may do that.
        while life::is_over() {
            thread::park();
        }
    }

    /// Has this thread stand still, and not unwind, when the interpreter ends it.
    pub(crate) fn arm() {
        // Guards: an object of ours that goes when the thread's values do.
        let _ = ARMED.try_with(|armed| {
            armed.get_or_init(|| {
                let mut record = Box::new(Record {
                    routine: None,
                    argument: ptr::null_mut(),
                    cancel_type: 0,
                    previous: ptr::null_mut(),
                });
                push(&raw mut *record);
                record
            });
        });
    }

    #[expect(unsafe_code, reason = "the C library knows cleanup handlers by this function alone")]
    fn push(record: *mut Record) {
        // SAFETY: a look-up of a name. Not linked, since its version in later glibcs would refuse the earlier ones.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_pthread_cleanup_push".as_ptr()) };
        if found.is_null() {
            return;
        }
        // SAFETY: the function of this name has had this type since glibc 2.0.
        let push = unsafe { mem::transmute::<*mut c_void, Push>(found) };
        // SAFETY: the record lives until the values of this thread go, after which glibc calls no handler of it any more; nobody else
        // reads or writes it.
        unsafe { push(record, stand_still, ptr::null_mut()) }
    }
}
