//! The devices that a test suite runs on.

use super::{Device, Order, cuda};

/// The host; the host in checked mode in three thread orders, with its own launch shapes and with CUDA's; and
/// CUDA when there is one. `SADDLE_REQUIRE_CUDA=1` turns its absence into a failure.
pub fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("host".to_owned(), Device::host().unwrap())];
    devices.extend(checked_devices());
    devices.extend(devices_as_cuda());
    match cuda::status() {
        cuda::Status::Usable(_) => devices.push(("cuda".into(), Device::cuda(0).unwrap())),
        cuda::Status::Missing(reason) => {
            assert!(
                std::env::var("SADDLE_REQUIRE_CUDA").as_deref() != Ok("1"),
                "SADDLE_REQUIRE_CUDA=1, but {reason}"
            );
            eprintln!("NOT RUN on CUDA: {reason}");
        }
    }
    devices
}

/// Whether NVRTC is there to compile kernels. Without it a test is reported as not run, and
/// `SADDLE_REQUIRE_NVRTC=1` makes it fail.
pub fn nvrtc_is_present() -> bool {
    let Err(reason) = cuda::nvrtc::version() else { return true };
    assert!(
        std::env::var("SADDLE_REQUIRE_NVRTC").as_deref() != Ok("1"),
        "SADDLE_REQUIRE_NVRTC=1, but {reason}"
    );
    eprintln!("NOT RUN: {reason}");
    false
}

/// The host in checked mode with the launch shapes of CUDA, in three thread orders.
pub fn devices_as_cuda() -> Vec<(String, Device)> {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled(7)];
    orders.map(|order| (format!("host as CUDA {order:?}"), Device::host_as_cuda(order).unwrap())).into()
}

/// The host in checked mode, in three thread orders.
pub fn checked_devices() -> Vec<(String, Device)> {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled(7)];
    orders.map(|order| (format!("host checked {order:?}"), Device::host_checked(order).unwrap())).into()
}
