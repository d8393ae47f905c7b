//! NVRTC: from a kernel source to a cubin for one architecture, with an on-disk cache.

use crate::device::Source;
use crate::device::kernels::HEADERS;
use crate::error::{Error, Result};
use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A GPU architecture to compile for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arch {
    /// `sm_90a`, or `compute_90` where NVRTC does not know the GPU and the driver must translate.
    pub name: String,
}

impl Arch {
    /// The exact architecture of a GPU, or the newest that NVRTC knows; the error says why there is none.
    pub fn of_device((major, minor): (i32, i32)) -> Result<Arch, String> {
        let wanted = major * 10 + minor;
        let known = supported()?;
        if known.contains(&wanted) {
            // Hopper and newer have features that exist only under the `a` name.
            let suffix = if wanted >= 90 { "a" } else { "" };
            return Ok(Arch { name: format!("sm_{wanted}{suffix}") });
        }
        match known.iter().filter(|a| **a <= wanted).max() {
            Some(newest) => Ok(Arch { name: format!("compute_{newest}") }),
            None => {
                let oldest = known.iter().min().unwrap_or(&0);
                Err(format!("this NVRTC compiles for sm_{oldest} and newer, the GPU is sm_{wanted}"))
            }
        }
    }

    /// An architecture by name (`sm_80`, `sm_90a`).
    pub fn named(name: &str) -> Arch {
        Arch { name: name.into() }
    }

    /// Ten times the compute capability: 90 for `sm_90a`; 0 for a name without a number.
    pub fn number(&self) -> u32 {
        let digits = self.name.chars().filter(char::is_ascii_digit);
        digits.fold(0, |number, digit| number * 10 + digit.to_digit(10).unwrap_or(0))
    }
}

/// Registers and spills of one kernel, as the assembler reported them.
#[derive(Debug, Clone)]
pub struct Resources {
    pub kernel: String,
    pub registers: u32,
    pub spill_bytes: u32,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
}

/// A compiled source: the image, and the assembler's report on each kernel.
pub struct Compiled {
    pub image: Vec<u8>,
    pub resources: Vec<Resources>,
}

/// The oldest NVRTC that can be used: older ones lack functions that are called here.
const OLDEST: (i32, i32) = (12, 0);

/// NVRTC's version; the error says how to get an NVRTC that can be used.
pub fn version() -> Result<(i32, i32), String> {
    // SAFETY: only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "the run-time compiler NVRTC (libnvrtc.so) was not found; it comes with the CUDA toolkit, \
                    or from PyPI with `pip install nvidia-cuda-nvrtc`: put the folder that holds libnvrtc on \
                    LD_LIBRARY_PATH"
                .into(),
        );
    }
    // SAFETY: only looks the names up. `cudarc` panics at the call of a function that is missing.
    let has = |name: &&str| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()).is_ok() };
    if let Some(name) = ["nvrtcVersion", "nvrtcCreateProgram", "nvrtcGetCUBIN"].iter().find(|name| !has(name))
    {
        return Err(format!(
            "the library libnvrtc.so that the loader finds has no {name}, so it is not NVIDIA's: take its \
             folder off LD_LIBRARY_PATH"
        ));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: fills two integers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|e| format!("NVRTC does not answer: {e:?}"))?;
    new_enough((major, minor))
}

fn new_enough((major, minor): (i32, i32)) -> Result<(i32, i32), String> {
    if (major, minor) >= OLDEST {
        return Ok((major, minor));
    }
    Err(format!(
        "the run-time compiler NVRTC {major}.{minor} (libnvrtc.so) is too old, {}.{} or newer is needed: get \
         one from PyPI with `pip install nvidia-cuda-nvrtc-cu12` and put the folder that holds it first on \
         LD_LIBRARY_PATH",
        OLDEST.0, OLDEST.1
    ))
}

fn supported() -> Result<Vec<i32>, String> {
    version()?;
    let mut count = 0;
    let failed = |e| format!("NVRTC does not list its architectures: {e:?}");
    // SAFETY: NVRTC writes `count` integers, the number it reported itself.
    unsafe {
        sys::nvrtcGetNumSupportedArchs(&mut count).result().map_err(failed)?;
        let mut archs = vec![0; count.max(0) as usize];
        sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()).result().map_err(failed)?;
        Ok(archs)
    }
}

fn present() -> Result<(i32, i32)> {
    version().map_err(|reason| Error::Device { device: "cuda".into(), reason })
}

fn options(arch: &Arch) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={}", arch.name),
        "--std=c++17".into(),
        "-default-device".into(),
        "-lineinfo".into(),
    ];
    // Some constants are for the host or for Rust only.
    options.push("--diag-suppress=177".into());
    if arch.name.starts_with("sm_") {
        options.push("--ptxas-options=-v".into());
    }
    options
}

/// The image of a source for an architecture, from the cache folder (`SADDLE_CACHE`, else the user's cache
/// folder) or else compiled.
pub fn cached_or_compiled(source: &Source, arch: &Arch) -> Result<Vec<u8>> {
    match cache_file(source, arch)?.and_then(|path| read(&path)) {
        Some(image) => Ok(image),
        None => compile_to_cache(source, arch),
    }
}

/// The content of a file; `None` for an empty one, which a crash of the machine may leave.
fn read(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok().filter(|content| !content.is_empty())
}

/// Compiles a source for an architecture and leaves the image in the cache folder.
pub fn compile_to_cache(source: &Source, arch: &Arch) -> Result<Vec<u8>> {
    let image = compile(source, arch)?.image;
    if let Some(path) = cache_file(source, arch)? {
        // A cache that cannot be written costs time, not correctness.
        let _ = store(&path, &image);
    }
    Ok(image)
}

fn cache_file(source: &Source, arch: &Arch) -> Result<Option<PathBuf>> {
    let version = present()?;
    let mut hasher = DefaultHasher::new();
    (source.text, HEADERS, options(arch), version).hash(&mut hasher);
    let name = format!("{}-{}-{:016x}.bin", source.name, arch.name, hasher.finish());
    Ok(cache_folder().map(|folder| folder.join(name)))
}

fn store(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Where compiled kernels are kept: `SADDLE_CACHE`, else the user's cache folder.
pub(in crate::device) fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("SADDLE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("saddle")))
        .or_else(|| variable("HOME").map(|p| p.join(".cache/saddle")))
}

/// Compiles a source, without a GPU.
pub fn compile(source: &Source, arch: &Arch) -> Result<Compiled> {
    present()?;
    let failed = |log: String| Error::Compile { file: source.file.into(), arch: arch.name.clone(), log };
    let text = |s: &str| CString::new(s).map_err(|e| failed(e.to_string()));
    let (code, name) = (text(source.text)?, text(source.file)?);
    let headers = HEADERS.iter().map(|(_, body)| text(body)).collect::<Result<Vec<_>>>()?;
    let header_names = HEADERS.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>>>()?;
    let header_pointers: Vec<*const c_char> = headers.iter().map(|h| h.as_ptr()).collect();
    let name_pointers: Vec<*const c_char> = header_names.iter().map(|h| h.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings live until the program is destroyed; buffers have the sizes that NVRTC asked for.
    unsafe {
        sys::nvrtcCreateProgram(
            &mut program,
            code.as_ptr(),
            name.as_ptr(),
            headers.len() as i32,
            header_pointers.as_ptr(),
            name_pointers.as_ptr(),
        )
        .result()
        .map_err(|e| failed(format!("{e:?}")))?;
        let outcome = result::compile_program(program, &options(arch));
        let log = result::get_program_log(program)
            .map(|l| l.iter().map(|c| *c as u8 as char).collect::<String>())
            .unwrap_or_default();
        let log = log.replace('\0', "");
        let image = match outcome {
            Ok(()) => image(program, arch).map_err(failed),
            Err(e) => {
                Err(failed(summary(source, arch, &diagnostics(&log)).unwrap_or_else(|| format!("{e:?}"))))
            }
        };
        let _ = result::destroy_program(program);
        Ok(Compiled { image: image?, resources: resources(&log) })
    }
}

/// The log without the assembler's report on the kernels that it could translate.
fn diagnostics(log: &str) -> String {
    let lines =
        log.lines().filter(|line| !line.starts_with("ptxas info") && !line.starts_with("ptxas         ."));
    lines.collect::<Vec<_>>().join("\n")
}

/// Diagnostics in one line: the first error, and where the rest is; `None` without diagnostics. All of them
/// go to a file in the cache folder.
fn summary(source: &Source, arch: &Arch, diagnostics: &str) -> Option<String> {
    let (first, further) = first_error(diagnostics)?;
    // A user may have typed the name.
    let arch = arch.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let name = format!("{}-{arch}.log", source.name);
    let path = cache_folder()
        .map(|folder| folder.join(name))
        .filter(|path| store(path, diagnostics.as_bytes()).is_ok());
    let rest = if further == 1 { "1 more line".to_owned() } else { format!("{further} more lines") };
    Some(match path {
        Some(path) if further == 0 => format!("{first} (all in {})", path.display()),
        Some(path) => format!("{first} ({rest}, all in {})", path.display()),
        None => format!("{first} ({rest})"),
    })
}

/// The first line that reports an error, or the first of all, and how many others there are.
fn first_error(diagnostics: &str) -> Option<(&str, usize)> {
    let lines: Vec<&str> = diagnostics.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let first = lines.iter().find(|line| line.contains("error")).or(lines.first())?;
    Some((first, lines.len() - 1))
}

/// # Safety
/// `program` was compiled for `arch`.
unsafe fn image(program: sys::nvrtcProgram, arch: &Arch) -> Result<Vec<u8>, String> {
    let mut size = 0;
    // SAFETY: the buffer has the size that NVRTC asked for.
    unsafe {
        if arch.name.starts_with("sm_") {
            sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(|e| format!("{e:?}"))?;
            let mut image = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().map_err(|e| format!("{e:?}"))?;
            Ok(image)
        } else {
            result::get_ptx(program)
                .map(|ptx| ptx.iter().map(|c| *c as u8).collect())
                .map_err(|e| format!("{e:?}"))
        }
    }
}

/// Reads the assembler's verbose lines: a line that names the function, then its stack and spills, then
/// registers and shared memory.
fn resources(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some(name) =
            line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next())
        {
            found.push(Resources { kernel: name.into(), registers: 0, spill_bytes: 0, shared_bytes: 0 });
        }
        let Some(current) = found.last_mut() else { continue };
        let before = |what: &str| {
            line.split(what)
                .next()
                .filter(|head| head.len() < line.len())
                .and_then(|head| head.rsplit(' ').find(|w| !w.is_empty())?.parse::<u32>().ok())
        };
        current.spill_bytes +=
            before(" bytes spill stores").unwrap_or(0) + before(" bytes spill loads").unwrap_or(0);
        current.registers = before(" registers").unwrap_or(current.registers);
        current.shared_bytes = before(" bytes smem").unwrap_or(current.shared_bytes);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::nvrtc_is_present;

    /// Lines as ptxas 13 prints them.
    const LOG: &str = "\
ptxas info    : 140 bytes gmem, 280 bytes cmem[4]
ptxas info    : Compiling entry function 'tile' for 'sm_80'
ptxas info    : Function properties for tile
ptxas         .     24 bytes stack frame, 20 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 4096 bytes smem, 436 bytes cmem[0]
ptxas info    : Compile time = 35.626 ms
ptxas info    : Compiling entry function 'row' for 'sm_80'
ptxas info    : Function properties for row
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, used 0 barriers, 392 bytes cmem[0]
ptxas error   : Entry function 'tile' uses too much shared data (0x14000 bytes, 0xc000 max)
";

    #[test]
    fn the_assembler_is_understood() {
        let found = resources(LOG);
        let numbers: Vec<_> =
            found.iter().map(|r| (r.kernel.as_str(), r.registers, r.spill_bytes, r.shared_bytes)).collect();
        assert_eq!(numbers, [("tile", 168, 56, 4096), ("row", 26, 0, 0)]);
        assert_eq!(
            diagnostics(LOG),
            "ptxas error   : Entry function 'tile' uses too much shared data (0x14000 bytes, 0xc000 max)"
        );
    }

    #[test]
    fn diagnostics_become_one_line() {
        let log = "a.cu(2): warning #1: odd\n  int x;\n\na.cu(9): error: identifier \"y\" is undefined\n  \
                   y = 1;\n  ^\n1 error detected\n";
        assert_eq!(first_error(log), Some(("a.cu(9): error: identifier \"y\" is undefined", 5)));
        assert_eq!(first_error("\nonly this\n"), Some(("only this", 0)));
        assert_eq!(first_error(" \n"), None);
    }

    #[test]
    fn old_compilers_are_refused() {
        assert_eq!(new_enough((12, 0)), Ok((12, 0)));
        assert_eq!(new_enough((13, 5)), Ok((13, 5)));
        let error = new_enough((11, 8)).unwrap_err();
        assert!(
            error.starts_with(
                "the run-time compiler NVRTC 11.8 (libnvrtc.so) is too old, 12.0 or newer is needed"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_source_that_does_not_compile_is_reported_in_one_line() {
        if !nvrtc_is_present() {
            return;
        }
        let source =
            Source { name: "wrong", file: "wrong.cu", text: "int a = b;\nint c = d;\n", kernels: &[] };
        let message = compile(&source, &Arch::named("sm_80")).err().unwrap().to_string();
        let head = "kernel source wrong.cu does not compile for sm_80: wrong.cu(1): error: identifier \"b\" \
                    is undefined (";
        assert!(message.starts_with(head) && message.lines().count() == 1, "{message}");
        if let Some(path) =
            message.strip_suffix(')').and_then(|text| text.split_once("all in ")).map(|(_, path)| path)
        {
            assert!(path.ends_with("wrong-sm_80.log"), "{message}");
            let log = std::fs::read_to_string(path).unwrap();
            std::fs::remove_file(path).unwrap();
            assert!(log.contains("identifier \"b\"") && log.contains("identifier \"d\""), "{log}");
        }
    }

    #[test]
    fn empty_cache_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/image.bin");
        store(&path, b"image").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"image"[..]));
        store(&path, b"").unwrap();
        assert_eq!(read(&path), None);
        assert_eq!(read(&folder.path().join("none.bin")), None);
    }
}
