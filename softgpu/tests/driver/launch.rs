use crate::harness::{LATE, PTX, alone, room};

#[test]
fn modules_and_their_functions() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let mut word = 0usize;
        let result = &raw mut word as usize;
        let module = cuda.get("cuModuleLoadData", &[PTX.as_ptr() as usize]);
        assert_eq!(cuda.get("cuModuleGetFunctionCount", &[module]) as u32, 2);
        let function = cuda.get("cuModuleGetFunction", &[module, c"tile".as_ptr() as usize]);
        assert_eq!(cuda.get("cuFuncGetModule", &[function]), module);
        cuda.refuses(500, "cuModuleGetFunction", &[result, module, c"tiles".as_ptr() as usize]);
        cuda.refuses(400, "cuModuleGetFunction", &[result, function, c"tile".as_ptr() as usize]);
        cuda.refuses(1, "cuModuleGetFunction", &[result, module, 0]);
        for (image, code) in [
            (&b"\x7fELF\0"[..], 209),
            (b"\xb1CbF\x01\0", 209),
            (b"\x01\x02", 200),
            (b".version 8.0\n.target sm_80\n.address_size 64\nbogus.u32 1;\0", 218),
            (b".version 8.0\n.target sm_100\n.address_size 64\n\0", 209),
            (b".version 8.0\n.target sm_90a\n.address_size 64\n\0", 209),
        ] {
            cuda.refuses(code, "cuModuleLoadData", &[result, image.as_ptr() as usize]);
        }
        cuda.refuses(301, "cuModuleLoad", &[result, c"/nowhere".as_ptr() as usize]);
        let path = std::env::temp_dir().join(format!("softgpu-{}.ptx", std::process::id()));
        std::fs::write(&path, PTX.to_bytes()).unwrap();
        let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        cuda.get("cuModuleLoad", &[text.as_ptr() as usize]);
        std::fs::remove_file(path).unwrap();
        cuda.get("cuModuleLoadDataEx", &[PTX.as_ptr() as usize, 0, 0, 0]);
        cuda.ok("cuModuleUnload", &[module]);
        cuda.refuses(400, "cuFuncGetModule", &[result, function]);
    });
    let Some(said) = said else { return };
    assert!(said.contains("no kernel tiles; the module has increment, tile\n"), "{said}");
    assert!(said.contains("the image is a binary for a real GPU; compile to PTX"), "{said}");
    assert!(said.contains("PTX for sm_100 does not run on Software GPU (compute_90)\n"), "{said}");
}

#[test]
fn attributes_of_a_function() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let (increment, tile) = (cuda.function(c"increment"), cuda.function(c"tile"));
        let get = |function, attribute| cuda.get("cuFuncGetAttribute", &[attribute, function]) as u32;
        assert_eq!((get(increment, 0), get(tile, 0)), (256, 1024));
        assert_eq!((get(increment, 1), get(tile, 1)), (0, 4096));
        assert_eq!((get(increment, 8), get(tile, 8)), (48 << 10, (48 << 10) - 4096));
        let set = |attribute, value: i32| cuda.call("cuFuncSetAttribute", &[tile, attribute, value as usize]);
        let most = (227 << 10) - 4096;
        assert_eq!((set(8, most), set(8, most + 1), set(8, -1)), (0, 1, 1));
        assert_eq!(get(tile, 8), most as u32);
        assert_eq!((set(9, 50), set(9, -1), set(9, 101), set(0, 1)), (0, 0, 1, 1));
        cuda.refuses(1, "cuFuncGetAttribute", &[room(), 77, tile]);
        cuda.ok("cuFuncSetCacheConfig", &[tile, 1]);
        cuda.refuses(1, "cuFuncSetCacheConfig", &[tile, 5]);
        let name = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
        assert_eq!(cuda.get(name, &[increment, 256, 0]) as u32, 8);
        assert_eq!(cuda.get(name, &[increment, 32, 0]) as u32, 32);
        assert_eq!(cuda.get(name, &[tile, 32, 110 << 10]) as u32, 1);
        cuda.refuses(1, name, &[room(), increment, 257, 0]);
    });
    let Some(said) = said else { return };
    assert!(said.contains("tile: 228353 dynamic and 4096 static bytes of at most 232448\n"), "{said}");
}

#[test]
fn limits_of_a_launch() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let tile = cuda.function(c"tile");
        let argument = 0usize;
        let arguments = [&raw const argument as usize];
        let launch = |grid: [usize; 3], block: [usize; 3], shared: usize| {
            let [[a, b, c], [x, y, z]] = [grid, block];
            cuda.call("cuLaunchKernel", &[tile, a, b, c, x, y, z, shared, 0, arguments.as_ptr() as usize, 0])
        };
        let one = [1, 1, 1];
        assert_eq!(launch(one, one, 0), 0);
        for axis in 0..3 {
            let with = |value| std::array::from_fn(|other| if other == axis { value } else { 1 });
            assert_eq!((launch(with(0), one, 0), launch(one, with(0), 0)), (1, 1));
            let (grid, block) = ([1 << 31, 65536, 65536][axis], [1025, 1025, 65][axis]);
            assert_eq!((launch(with(grid), one, 0), launch(one, with(block), 0)), (1, 1));
        }
        assert_eq!(launch(one, [32, 32, 1], 0), 0);
        assert_eq!(launch(one, [33, 32, 1], 0), 1);
        let room = (48 << 10) - 4096;
        assert_eq!((launch(one, one, room), launch(one, one, room + 1)), (0, 1));
        cuda.ok("cuFuncSetAttribute", &[tile, 8, room + 1]);
        assert_eq!((launch(one, one, room + 1), launch(one, one, room + 2)), (0, 1));
        cuda.ok("cuCtxSynchronize", &[]);
        // The kernel's own limit.
        let increment = cuda.function(c"increment");
        cuda.refuses(
            1,
            "cuLaunchKernel",
            &[increment, 1, 1, 1, 257, 1, 1, 0, 0, arguments.as_ptr() as usize, 0],
        );
    });
    let Some(said) = said else { return };
    for line in [
        "tile: a grid of [0, 1, 1] blocks, the limit is [2147483647, 65535, 65535]\n",
        "tile: a block of [1, 1, 65] threads, the limit is [1024, 1024, 64]\n",
        "tile: a block of 1056 threads, the limit is 1024\n",
        "tile: 45057 bytes of dynamic shared memory, the limit is 45056: cuFuncSetAttribute raises it\n",
        "increment: a block of 257 threads, the limit is 256\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
}

#[test]
fn arguments_are_copied_at_the_launch() {
    let said = alone(&[LATE], |cuda| {
        cuda.start();
        let (block, function, stream) = (cuda.block(&[1, 1, 1]), cuda.function(c"increment"), cuda.stream());
        let (mut by, count) = (10u32, 2u32);
        let arguments = [&raw const block as usize, &raw mut by as usize, &raw const count as usize];
        let launch = |params: usize, extra: usize| {
            cuda.call("cuLaunchKernel", &[function, 1, 1, 1, 32, 1, 1, 0, stream, params, extra])
        };
        assert_eq!(launch(arguments.as_ptr() as usize, 0), 0);
        by = std::hint::black_box(99);
        let _ = by;
        // One buffer instead.
        let mut buffer = [0u8; 16];
        buffer[..8].copy_from_slice(&block.to_le_bytes());
        buffer[8..12].copy_from_slice(&100u32.to_le_bytes());
        buffer[12..].copy_from_slice(&1u32.to_le_bytes());
        let (full, short) = (16usize, 15usize);
        let extra = |size: &usize| [1, buffer.as_ptr() as usize, 2, &raw const *size as usize, 0];
        assert_eq!(launch(0, extra(&full).as_ptr() as usize), 0);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [111, 11, 1]);
        assert_eq!(launch(0, extra(&short).as_ptr() as usize), 1);
        assert_eq!(launch(0, [7usize, 0, 0].as_ptr() as usize), 1);
        assert_eq!(launch(0, [0usize].as_ptr() as usize), 1);
        assert_eq!(launch(arguments.as_ptr() as usize, extra(&full).as_ptr() as usize), 1);
        assert_eq!(launch(0, 0), 1);
        assert_eq!(launch([arguments[0], 0, arguments[2]].as_ptr() as usize, 0), 1);
    });
    let Some(said) = said else { return };
    assert!(said.contains("15 bytes of arguments, increment has 16\n"), "{said}");
    assert!(said.contains("argument 1 of 3 of increment is null\n"), "{said}");
    assert!(said.contains("increment has 3 parameters, none given\n"), "{said}");
}

#[test]
fn functions_belong_to_their_context() {
    alone(&[], |cuda| {
        cuda.start();
        let function = cuda.function(c"increment");
        let block = cuda.block(&[1]);
        cuda.get("cuCtxCreate_v4", &[0, 0, 0]);
        assert_eq!(cuda.increment(function, block, 1, 1, 0), 201);
        cuda.refuses(400, "cuLaunchKernel", &[0x1234, 1, 1, 1, 1, 1, 1]);
    });
}
