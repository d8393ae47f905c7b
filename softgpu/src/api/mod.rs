//! The C functions of the driver, by chapters of NVIDIA's manual. Names and arguments are the manual's; each
//! body checks what the manual forbids and hands over to the rest of the crate.

mod context;
mod device;
mod event;
mod general;
mod graph;
mod kernel;
mod memory;
mod missing;
mod stream;

fn calls() -> impl Iterator<Item = (&'static str, *const ())> {
    [
        context::CALLS,
        device::CALLS,
        event::CALLS,
        general::CALLS,
        graph::CALLS,
        kernel::CALLS,
        memory::CALLS,
        missing::CALLS,
        stream::CALLS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    calls().map(|(name, _)| name)
}

/// The address of a function: `cuMemAlloc` is its newest version.
fn address(symbol: &str) -> Option<*const ()> {
    let named = |suffix: &str| {
        let full = format!("{symbol}{suffix}");
        calls().find(|(name, _)| *name == full).map(|(_, address)| address)
    };
    ["_v4", "_v3", "_v2", ""].into_iter().find_map(named)
}

/// The driver's state. A body runs only when there is one.
fn driver() -> crate::call::Outcome<&'static crate::driver::Driver> {
    crate::driver::get().ok_or(crate::codes::Code::SYSTEM_NOT_READY.into())
}
