//! The devices that test suites run on: those of the crate, and of crates that add operations or methods.
//!
//! `SADDLE_TEST_DEVICES` names them as `--device` does, separated by commas: `cuda` alone is for sanitizers
//! and debuggers. `SADDLE_REQUIRE_CUDA=1` and `SADDLE_REQUIRE_NVRTC=1` turn the absence of a GPU or of NVRTC
//! into a failure.
//!
//! These functions panic where a device does not open, as tests should.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::{Device, DeviceChoice, Order, cuda};
use std::sync::OnceLock;

/// A device with its name.
pub type Named = (String, Device);

/// The host; the host in checked mode in three thread orders, with its own launch shapes and with CUDA's; and
/// the first GPU when there is one.
pub fn devices() -> Vec<Named> {
    chosen().unwrap_or_else(|| {
        let mut devices = vec![host()];
        devices.extend(checked_devices());
        devices.extend(devices_as_cuda());
        devices.extend(gpu());
        devices
    })
}

/// The host, and the first GPU when there is one: for large jobs.
pub fn fast_devices() -> Vec<Named> {
    chosen().unwrap_or_else(|| [host()].into_iter().chain(gpu()).collect())
}

/// [`fast_devices`], and the host with the launch shapes of CUDA.
pub fn devices_and_cuda_shapes() -> Vec<Named> {
    chosen().unwrap_or_else(|| {
        let as_cuda = Device::host_as_cuda(Order::Shuffled(3)).unwrap();
        fast_devices().into_iter().chain([("host as CUDA".to_owned(), as_cuda)]).collect()
    })
}

/// The device of tests that run on one: the first of `SADDLE_TEST_DEVICES`, else the host.
pub fn device() -> Device {
    chosen().and_then(|devices| devices.into_iter().next()).unwrap_or_else(host).1
}

/// [`device`] as `--device` names it.
pub fn device_name() -> String {
    let names = std::env::var("SADDLE_TEST_DEVICES").unwrap_or_default();
    names.split(',').next().filter(|name| !name.is_empty()).unwrap_or("host").to_owned()
}

/// The host in checked mode with the launch shapes of CUDA, in three thread orders.
pub fn devices_as_cuda() -> Vec<Named> {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled(7)];
    orders.map(|order| (format!("host as CUDA {order:?}"), Device::host_as_cuda(order).unwrap())).into()
}

/// The host in checked mode, in three thread orders.
pub fn checked_devices() -> Vec<Named> {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled(7)];
    orders.map(|order| (format!("host checked {order:?}"), Device::host_checked(order).unwrap())).into()
}

/// Whether NVRTC is there to compile kernels. Without it a test is reported as not run.
pub fn nvrtc_is_present() -> bool {
    match cuda::nvrtc::version() {
        Ok(_) => true,
        Err(reason) => {
            missing("SADDLE_REQUIRE_NVRTC", &reason);
            false
        }
    }
}

fn host() -> Named {
    ("host".to_owned(), Device::host().unwrap())
}

/// The first GPU. All tests of a process share it: a context and its modules take long to make.
fn gpu() -> Option<Named> {
    static GPU: OnceLock<Result<Device, String>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| match cuda::status() {
        cuda::Status::Usable(gpus) => Ok(Device::cuda(gpus[0].ordinal).unwrap()),
        cuda::Status::Missing(reason) => Err(reason),
    });
    match gpu {
        Ok(device) => Some(("cuda".to_owned(), device.clone())),
        Err(reason) => {
            missing("SADDLE_REQUIRE_CUDA", reason);
            None
        }
    }
}

/// The devices of `SADDLE_TEST_DEVICES`.
fn chosen() -> Option<Vec<Named>> {
    let names = std::env::var("SADDLE_TEST_DEVICES").ok()?;
    let named = |name: &str| match name.parse() {
        Ok(DeviceChoice::Cuda(_)) => gpu().unwrap_or_else(|| panic!("SADDLE_TEST_DEVICES={names}: no GPU")),
        Ok(choice) => (name.to_owned(), choice.open().unwrap()),
        Err(error) => panic!("SADDLE_TEST_DEVICES={names}: {error}"),
    };
    Some(names.split(',').map(named).collect())
}

fn missing(variable: &str, reason: &str) {
    assert!(std::env::var(variable).as_deref() != Ok("1"), "{variable}=1, but {reason}");
    eprintln!("NOT RUN: {reason}");
}
