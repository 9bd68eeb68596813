//! A file descriptor that an event loop can wait on: eventfd, or a pipe where there is none.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Level-triggered: readable from [`Wake::notify`] to [`Wake::clear`].
#[derive(Debug)]
pub struct Wake {
    reader: OwnedFd,
    /// The other end of the pipe; an eventfd has none.
    writer: Option<OwnedFd>,
}

impl Wake {
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd is open and belongs to nobody else.
        Ok(Wake { reader: unsafe { OwnedFd::from_raw_fd(fd) }, writer: None })
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Wake { reader: reader.into(), writer: Some(writer.into()) })
    }

    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Never blocks. A full pipe is a readable pipe, so a failed write loses nothing.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        let fd = self.writer.as_ref().unwrap_or(&self.reader).as_raw_fd();
        // SAFETY: the buffer outlives the call, the descriptor is owned by self.
        unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
    }

    /// Never blocks. Takes all that was notified so far.
    pub fn clear(&self) {
        let mut buffer = [0u8; 64];
        loop {
            // SAFETY: as above.
            let read = unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            // An eventfd is empty after one read; a pipe when a read comes up short.
            if read < buffer.len() as isize {
                return;
            }
        }
    }
}
