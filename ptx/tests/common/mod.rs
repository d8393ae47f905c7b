//! Buffers, parameters and NVRTC for the tests.
#![allow(dead_code, clippy::result_large_err)]

use libloading::{Library, Symbol};
use ptx::{Counts, Launch, Memory, Module, Options, run};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// Numbers in [-1, 1), the same in every run.
pub fn random(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[derive(Clone, Copy)]
pub enum Argument {
    Pointer(u64),
    Int(i32),
    Float(f32),
    Bool(bool),
}
pub use Argument::*;

/// Memory with typed buffers of exact size.
pub struct Device {
    pub memory: Memory,
    pub options: Options,
}

impl Device {
    pub fn new(options: Options) -> Device {
        Device { memory: Memory::new(true), options }
    }
    pub fn floats(&mut self, values: &[f32]) -> u64 {
        let at = self.memory.allocate(4 * values.len()).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.memory.write(at, &bytes).unwrap();
        at
    }
    pub fn ints(&mut self, values: &[i32]) -> u64 {
        self.floats(&values.iter().map(|&x| f32::from_bits(x as u32)).collect::<Vec<f32>>())
    }
    pub fn longs(&mut self, values: &[u64]) -> u64 {
        let at = self.memory.allocate(8 * values.len()).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.memory.write(at, &bytes).unwrap();
        at
    }
    pub fn empty(&mut self, n: usize) -> u64 {
        self.memory.allocate(4 * n).unwrap()
    }
    pub fn read(&self, at: u64, n: usize) -> Vec<f32> {
        let mut bytes = vec![0; 4 * n];
        self.memory.read(at, &mut bytes).unwrap();
        bytes.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
    }
    pub fn try_run(
        &mut self,
        module: &Module,
        kernel: &str,
        (grid, block, dynamic_shared): ([u32; 3], u32, usize),
        arguments: &[Argument],
    ) -> Result<Counts, ptx::Fault> {
        let mut params: Vec<u8> = Vec::new();
        for argument in arguments {
            let bytes = match argument {
                Pointer(x) => x.to_le_bytes().to_vec(),
                Int(x) => x.to_le_bytes().to_vec(),
                Float(x) => x.to_le_bytes().to_vec(),
                Bool(x) => vec![*x as u8],
            };
            params.resize(params.len().next_multiple_of(bytes.len()), 0);
            params.extend(bytes);
        }
        let launch = Launch { grid, block: [block, 1, 1], dynamic_shared, params: &params };
        run(module, kernel, &launch, &mut self.memory, &self.options)
    }
    pub fn run(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        arguments: &[Argument],
    ) -> Counts {
        self.try_run(module, kernel, (grid, block, 0), arguments).unwrap_or_else(|fault| panic!("{fault}"))
    }
}

/// The folder of the project's CUDA sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels")
}

/// NVRTC, or a line that says that the test did not run.
pub fn nvrtc(test: &str) -> Option<Library> {
    let names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
    // SAFETY: NVRTC's initialisers have no requirements.
    let found = names.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    if found.is_none() {
        assert!(std::env::var("SADDLE_REQUIRE_NVRTC").as_deref() != Ok("1"), "{test}: NVRTC is required");
        eprintln!("NOT RUN: {test}: no NVRTC on the library path");
    }
    found
}

/// The PTX of a source for an architecture such as `compute_90`, with float for a type T that it leaves open.
pub fn compile(library: &Library, source: &Path, arch: &str) -> String {
    compile_for(library, source, arch, "float")
}

/// The same with another type, which a header of `kernels/lib` may define.
pub fn compile_for(library: &Library, source: &Path, arch: &str, element: &str) -> String {
    type Program = *mut c_void;
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
    type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
    type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
    type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
    let text = std::fs::read_to_string(source).unwrap();
    // The templates of the headers have parameters of the same name, which hide this one.
    let element = format!("#include \"lib/common.cuh\"\nusing T = {element};\n#line 1\n");
    let text = CString::new(element + &text).unwrap();
    let name = CString::new(source.file_name().unwrap().to_str().unwrap()).unwrap();
    let include = format!("-I{}", sources().display());
    let options =
        [&format!("--gpu-architecture={arch}"), "--std=c++17", "-default-device", "-lineinfo", &include];
    let options = options.map(|option| CString::new(option).unwrap());
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: the signatures are those of nvrtc.h, and all pointers live through the calls.
    unsafe {
        let create: Symbol<Create> = library.get(b"nvrtcCreateProgram\0").unwrap();
        let compile: Symbol<Compile> = library.get(b"nvrtcCompileProgram\0").unwrap();
        let size: Symbol<Size> = library.get(b"nvrtcGetPTXSize\0").unwrap();
        let get: Symbol<Get> = library.get(b"nvrtcGetPTX\0").unwrap();
        let destroy: Symbol<Destroy> = library.get(b"nvrtcDestroyProgram\0").unwrap();
        let mut program = std::ptr::null_mut();
        assert_eq!(
            create(&mut program, text.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null()),
            0
        );
        let outcome = compile(program, pointers.len() as c_int, pointers.as_ptr());
        assert_eq!(outcome, 0, "{} for {arch}", source.display());
        let mut bytes = 0;
        assert_eq!(size(program, &mut bytes), 0);
        let mut out = vec![0u8; bytes];
        assert_eq!(get(program, out.as_mut_ptr().cast()), 0);
        destroy(&mut program);
        out.retain(|&byte| byte != 0);
        String::from_utf8(out).unwrap()
    }
}
