//! The one device, and its primary context.

use super::driver;
use crate::call::{Out, Outcome};
use crate::codes::Code;
use crate::handles::{Handle, lock};
use std::ffi::{c_char, c_int};

fn check(device: c_int) -> Outcome {
    if device == 0 {
        Ok(())
    } else {
        Err(Code::INVALID_DEVICE.because(format!("there is no device {device}")))
    }
}

/// The flags of a context: how to wait (0, 1, 2, 4), and some that change nothing here.
pub fn check_flags(flags: u32) -> Outcome {
    let wait = flags & 7;
    if flags > 0xff || !matches!(wait, 0 | 1 | 2 | 4) {
        return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags of a context")));
    }
    Ok(())
}

const UUID: [u8; 16] = *b"softgpu device 0";

calls! {
    Init cuDeviceGetCount(count: Out<c_int>) {
        count.set(1)
    }

    Init cuDeviceGet(device: Out<c_int>, ordinal: c_int) {
        check(ordinal)?;
        device.set(0)
    }

    Init cuDeviceGetName(name: Out<c_char>, len: c_int, device: c_int) {
        check(device)?;
        name.text(&driver()?.options.arch.name(), len.max(0) as usize)
    }

    Init cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) {
        check(device)?;
        let found = driver()?.options.arch.attribute(attribute);
        let missing = || Code::INVALID_VALUE.because(format!("there is no attribute {attribute}"));
        value.set(found.ok_or_else(missing)?)
    }

    Init cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        check(device)?;
        bytes.set(driver()?.options.memory)
    }

    Init cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) {
        check(device)?;
        uuid.set(UUID)
    }

    Init cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) {
        check(device)?;
        uuid.set(UUID)
    }

    Init cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) {
        check(device)?;
        context.present()?;
        context.set(driver()?.retain_primary())
    }

    Init cuDevicePrimaryCtxRelease_v2(device: c_int) {
        check(device)?;
        driver()?.release_primary(false)
    }

    Init cuDevicePrimaryCtxReset_v2(device: c_int) {
        check(device)?;
        driver()?.release_primary(true)
    }

    Init cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) {
        check(device)?;
        check_flags(flags)?;
        lock(&driver()?.primary).flags = flags;
        Ok(())
    }

    Init cuDevicePrimaryCtxGetState(device: c_int, flags: Out<u32>, active: Out<c_int>) {
        check(device)?;
        let primary = lock(&driver()?.primary);
        flags.set(primary.flags)?;
        active.set((primary.retained > 0) as c_int)
    }
}
