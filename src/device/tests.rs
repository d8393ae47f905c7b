//! Graphs, the allocator, buffers and device names.

use super::kernels::conformance::execution::conf_increment;
use super::memory::Policy;
use super::testing::devices;
use super::{Buffer, Device, DeviceChoice, Table, cuda};
use crate::error::{Error, Result};

fn increment(device: &Device, x: &Buffer<i32>, y: &mut Buffer<i32>) -> Result<()> {
    conf_increment(device, x.len().div_ceil(64), x, y, x.len())
}

fn buffer(device: &Device, values: &[i32]) -> Buffer<i32> {
    Buffer::from_slice(device, values).unwrap()
}

#[test]
fn a_graph_replays_on_new_input() {
    for (label, device) in devices() {
        let (mut x, mut y) = (buffer(&device, &[1, 2, 3]), buffer(&device, &[0, 0, 0]));
        let graph = device.capture(|| increment(&device, &x, &mut y)).unwrap();
        assert_eq!(y.to_vec().unwrap(), [0, 0, 0], "{label}: a capture runs nothing");
        graph.replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), [2, 3, 4], "{label}");
        x.write(&[10, 20, 30]).unwrap();
        graph.replay().unwrap();
        graph.replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), [11, 21, 31], "{label}");
    }
}

#[test]
fn a_graph_records_zeros_and_copies() {
    for (label, device) in devices() {
        let (mut x, mut y) = (buffer(&device, &[5, 6, 7, 8]), buffer(&device, &[0; 4]));
        let mut kept = None;
        let graph = device.capture(|| {
            let mut sum = Buffer::zeros(&device, 4)?;
            let copy = x.duplicate()?;
            increment(&device, &copy, &mut sum)?;
            y.copy_from(&sum)?;
            kept = Some(Buffer::<i32>::zeros(&device, 2)?);
            Ok(())
        });
        graph.as_ref().unwrap().replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), [6, 7, 8, 9], "{label}");
        assert_eq!(kept.unwrap().to_vec().unwrap(), [0, 0], "{label}");
        x.write(&[0; 4]).unwrap();
        graph.unwrap().replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), [1; 4], "{label}");
    }
}

#[test]
fn memory_of_a_graph_is_not_given_to_other_buffers() {
    for (label, device) in devices() {
        let n = 1000;
        let x = buffer(&device, &vec![1; n]);
        let mut last = None;
        let graph = device
            .capture(|| {
                let mut a = Buffer::uninit(&device, n)?;
                increment(&device, &x, &mut a)?;
                let mut b = Buffer::uninit(&device, n)?;
                increment(&device, &a, &mut b)?;
                drop(a);
                // May have the memory of `a`, which nothing recorded reads any more.
                let mut c = Buffer::uninit(&device, n)?;
                increment(&device, &b, &mut c)?;
                last = Some(c);
                Ok(())
            })
            .unwrap();
        let others: Vec<Buffer<i32>> = (0..8).map(|_| buffer(&device, &vec![-1; n])).collect();
        graph.replay().unwrap();
        assert_eq!(last.as_ref().unwrap().to_vec().unwrap(), vec![4; n], "{label}");
        assert!(
            others.iter().all(|b| b.to_vec().unwrap() == vec![-1; n]),
            "{label}: a replay wrote to another buffer"
        );
        drop(last);
        let more: Vec<Buffer<i32>> = (0..8).map(|_| buffer(&device, &vec![-2; n])).collect();
        graph.replay().unwrap();
        assert!(
            more.iter().all(|b| b.to_vec().unwrap() == vec![-2; n]),
            "{label}: a replay wrote to another buffer"
        );
        drop(graph);
        let again = buffer(&device, &vec![7; n]);
        assert_eq!(again.to_vec().unwrap(), vec![7; n], "{label}");
    }
}

#[test]
fn a_graph_keeps_older_buffers_that_it_uses() {
    for (label, device) in devices() {
        let n = 300;
        let (inside, outside) = (buffer(&device, &vec![1; n]), buffer(&device, &vec![10; n]));
        let mut results = (buffer(&device, &vec![0; n]), buffer(&device, &vec![0; n]));
        let graphs: Vec<_> = {
            let mut inside = Some(inside);
            let first = device.capture(|| {
                let x = inside.take().unwrap();
                increment(&device, &x, &mut results.0)?;
                drop(x);
                // Must not get the memory of `x`: the next replay reads it again.
                let mut other = Buffer::uninit(&device, n)?;
                increment(&device, &results.0, &mut other)
            });
            let second = device.capture(|| increment(&device, &outside, &mut results.1));
            vec![first.unwrap(), second.unwrap()]
        };
        drop(outside);
        let others: Vec<Buffer<i32>> = (0..8).map(|_| buffer(&device, &vec![-1; n])).collect();
        for _ in 0..2 {
            graphs.iter().for_each(|g| g.replay().unwrap());
            assert_eq!(results.0.to_vec().unwrap(), vec![2; n], "{label}");
            assert_eq!(results.1.to_vec().unwrap(), vec![11; n], "{label}");
        }
        drop(others);
    }
}

#[test]
fn two_graphs_keep_one_buffer() {
    for (label, device) in devices() {
        let x = buffer(&device, &[1; 200]);
        let mut y = buffer(&device, &[0; 200]);
        let first = device.capture(|| increment(&device, &x, &mut y)).unwrap();
        let second = device.capture(|| increment(&device, &x, &mut y)).unwrap();
        drop(x);
        drop(first);
        let others: Vec<Buffer<i32>> = (0..8).map(|_| buffer(&device, &[-1; 200])).collect();
        second.replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), [2; 200], "{label}");
        drop(others);
    }
}

#[test]
fn a_table_of_a_capture_is_as_written_in_every_replay() {
    for (label, device) in devices() {
        let x = buffer(&device, &[1; 4]);
        let mut y = buffer(&device, &[0; 4]);
        let named = buffer(&device, &[5; 4]);
        let mut table = Table::new(&device);
        table.row(7).read(&named).value(1);
        let mut small = Table::new(&device);
        small.row(7);
        let mut seen = Vec::new();
        let (mut kept, mut held) = (None, None);
        let graph = device.capture(|| {
            // Written to in every replay, and free when the table is made.
            let mut early = Buffer::<u64>::uninit(&device, 3)?;
            early.copy_from(&Buffer::zeros(&device, 3)?)?;
            drop(early);
            let table = table.buffer()?;
            seen.push(table.address());
            held = Some(table.duplicate()?);
            drop(table);
            kept = Some(small.buffer()?);
            // Must not get the memory of the table.
            let mut other = Buffer::<u64>::uninit(&device, 3)?;
            seen.push(other.address());
            other.copy_from(&Buffer::zeros(&device, 3)?)?;
            increment(&device, &x, &mut y)
        });
        let graph = graph.unwrap();
        assert!(seen[0] != seen[1], "{label}");
        for _ in 0..2 {
            graph.replay().unwrap();
            assert_eq!(kept.as_ref().unwrap().to_vec().unwrap(), [0], "{label}");
            assert_eq!(held.as_ref().unwrap().to_vec().unwrap(), [0, named.address(), 1], "{label}");
        }
        // A buffer that only the table names is kept, too.
        let address = named.address();
        drop(named);
        let others: Vec<Buffer<i32>> = (0..8).map(|_| buffer(&device, &[-1; 4])).collect();
        assert!(others.iter().all(|other| other.address() != address), "{label}");
        drop(graph);
        assert_eq!(kept.unwrap().to_vec().unwrap(), [0], "{label}: it outlives the graph");
        let mut direct = Table::new(&device);
        direct.row(3).value(7).row(2).read(None::<&Buffer<f32>>);
        assert_eq!((direct.rows(), direct.blocks()), (2, 5), "{label}");
        assert_eq!(direct.buffer().unwrap().to_vec().unwrap(), [0, 7, 3, 0], "{label}");
    }
}

#[test]
fn a_failed_capture_leaves_a_working_device() {
    for (label, device) in devices() {
        let x = buffer(&device, &[1, 2]);
        let mut y = buffer(&device, &[0, 0]);
        let error = device.capture(|| x.to_vec().map(|_| ())).err().unwrap();
        assert!(error.to_string().contains("captur"), "{label}: {error}");
        let error = device.capture(|| y.write(&[3, 3])).err().unwrap();
        assert!(error.to_string().contains("captur"), "{label}: {error}");
        let error = device.capture(|| Err(Error::value("key", 1, "stop"))).err().unwrap();
        assert_eq!(error.to_string(), "key = 1: stop", "{label}");
        if device.is_host() {
            let error = device.capture(|| device.capture(|| Ok(())).map(|_| ())).err().unwrap();
            assert_eq!(
                error.to_string(),
                "internal error: cannot start a second capture while a graph is captured",
                "{label}"
            );
        }
        increment(&device, &x, &mut y).unwrap();
        assert_eq!(y.to_vec().unwrap(), [2, 3], "{label}");
        device.capture(|| Ok(())).unwrap().replay().unwrap();
    }
}

/// A device that no other test uses, for tests about all of its memory: they share the GPU.
fn alone(device: Device) -> Device {
    if device.is_host() { device } else { Device::cuda(0).unwrap() }
}

#[test]
fn freed_memory_is_used_again() {
    for (label, device) in devices() {
        let device = alone(device);
        let step = || {
            let a = Buffer::<f32>::uninit(&device, 10_000).unwrap();
            let b = Buffer::<f32>::uninit(&device, 3_000).unwrap();
            drop(a);
            // A little smaller than the freed block.
            let c = Buffer::<u8>::uninit(&device, 38_000).unwrap();
            (b.address(), c.address(), device.memory_in_use())
        };
        let first = step();
        let second = step();
        let used = device.memory_in_use();
        assert_eq!(used.0, 0, "{label}: everything was dropped");
        assert_eq!(first.2, second.2, "{label}: the peak does not grow");
        // Checked devices map every buffer anew, wherever the system has room.
        if device.0.memory.policy == Policy::Cached {
            assert_eq!((first.0, first.1), (second.0, second.1), "{label}: nothing new was allocated");
            assert!((52_000..56_000).contains(&used.1), "{label}: {used:?}");
        }
    }
}

#[test]
fn buffers_hold_what_was_written() {
    for (label, device) in devices() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut b = Buffer::from_slice(&device, &bytes).unwrap();
        assert_eq!(b.to_vec().unwrap(), bytes, "{label}");
        assert_eq!(b.duplicate().unwrap().to_vec().unwrap(), bytes, "{label}");
        assert_eq!((b.len(), b.is_empty()), (256, false));
        let error = b.write(&[1, 2, 3]).unwrap_err().to_string();
        assert_eq!(error, "Buffer::write: expected 256 elements, got shape [3]", "{label}");
        let error = b.copy_from(&Buffer::zeros(&device, 7).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "Buffer::copy_from: expected 256 elements, got shape [7]", "{label}");
        assert_eq!(b.to_vec().unwrap(), bytes, "{label}");
        assert_eq!(Buffer::<f32>::zeros(&device, 77).unwrap().to_vec().unwrap(), [0.0; 77], "{label}");
        let empty = Buffer::<f32>::from_slice(&device, &[]).unwrap();
        assert!(
            empty.is_empty() && empty.to_vec().unwrap().is_empty() && empty.duplicate().unwrap().is_empty(),
            "{label}"
        );
    }
}

#[test]
fn new_buffers_of_a_checked_device_are_poisoned() {
    let device = Device::host_checked(super::Order::Forward).unwrap();
    assert!(Buffer::<f32>::uninit(&device, 9).unwrap().to_vec().unwrap().iter().all(|v| v.is_nan()));
    assert!(Buffer::<i32>::uninit(&device, 9).unwrap().to_vec().unwrap().iter().all(|v| *v < -1_000_000));
}

#[test]
fn absurd_sizes_are_refused_with_the_numbers() {
    for (label, device) in devices() {
        let device = alone(device);
        // More than any machine has; more than an address can say; more than a size can say.
        for len in [1usize << 42, 1 << 61, usize::MAX / 2] {
            match Buffer::<f32>::uninit(&device, len) {
                Err(Error::OutOfMemory { asked, free, total, .. }) => {
                    assert!(asked >= 1 << 44, "{label}: asked {asked}");
                    assert!(0 < free && free <= total && total < asked, "{label}: {free} of {total} free");
                }
                Err(error) => panic!("{label}: {error}"),
                Ok(_) => panic!("{label}: {len} floats were allocated"),
            }
        }
        let error = Buffer::<u8>::uninit(&device, 1 << 44).err().unwrap().to_string();
        assert!(
            error.starts_with("out of memory on ") && error.contains("17592186044416 bytes asked, "),
            "{label}: {error}"
        );
        assert_eq!(device.memory_in_use().0, 0, "{label}");
        assert_eq!(buffer(&device, &[1, 2]).to_vec().unwrap(), [1, 2], "{label}: the device goes on working");
    }
}

#[test]
fn devices_by_name() {
    let choice = |name: &str| name.parse::<DeviceChoice>();
    let open = |name: &str| choice(name).and_then(DeviceChoice::open);
    for (text, name) in [
        ("auto", "auto"),
        ("Host ", "host"),
        ("host_checked", "host-checked"),
        ("host-as-cuda", "host-as-cuda"),
        ("cuda", "cuda:0"),
        ("CUDA:3", "cuda:3"),
    ] {
        assert_eq!(choice(text).unwrap().to_string(), name);
    }
    let device = open("host").unwrap();
    assert!(device.is_host() && device.describe().starts_with("host ("), "{device:?}");
    assert!(open("host-checked").unwrap().describe().ends_with(", checked)"));
    let auto = open("auto").unwrap();
    assert_eq!(auto.is_host(), matches!(cuda::status(), cuda::Status::Missing(_)));
    let error = choice("hots").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown device 'hots' (did you mean 'host'?); known: auto, host, host-checked, host-as-cuda, cuda, \
         cuda:0"
    );
    for name in ["", "cuda:", "cuda:x", "cuda:-1", "gpu"] {
        let error = choice(name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("unknown device '{name}'")), "{error}");
    }
    let error = open("cuda:97").unwrap_err().to_string();
    assert!(error.starts_with("device cuda:97 cannot be used: "), "{error}");
    if let cuda::Status::Missing(reason) = cuda::status() {
        assert_eq!(open("cuda").unwrap_err().to_string(), format!("device cuda:0 cannot be used: {reason}"));
    }
}
