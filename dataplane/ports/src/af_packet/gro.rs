//! Generic receive offload of a port's device, for as long as the port is open.

use super::sys::Socket;

/// The device's setting was changed; dropping this puts it back.
pub(super) struct Gro {
    /// Belongs to the device's network namespace and receives nothing.
    socket: Socket,
    device: String,
    before: bool,
}

impl Gro {
    /// Sets it; `None` where it was so already or the device cannot: a port works either way.
    pub(super) fn set(device: &str, on: bool) -> Option<Self> {
        let socket = Socket::new().ok()?;
        let before = socket.gro(device).ok()?;
        if before == on || socket.set_gro(device, on).is_err() {
            return None;
        }
        Some(Self {
            socket,
            device: device.to_owned(),
            before,
        })
    }
}

impl Drop for Gro {
    fn drop(&mut self) {
        // The device may be gone.
        let _ = self.socket.set_gro(&self.device, self.before);
    }
}
