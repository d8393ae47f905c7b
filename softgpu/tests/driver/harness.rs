//! The built library, called by name, each test in a process of its own: options are read once, and a fault
//! stays.

use libloading::Library;
use std::any::type_name_of_val;
use std::ffi::CStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "SOFTGPU_TEST_CHILD";
pub const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("kernels.ptx"), "\0").as_bytes())
{
    Ok(text) => text,
    Err(_) => c"",
};

/// A deadlock is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// The driver.
pub struct Cuda(Library);

/// Runs `body` in a process with these variables. There it returns `None`; in the test's own process it gives
/// what the other one wrote to its standard error, after it ended well.
pub fn alone(variables: &[(&str, &str)], body: impl FnOnce(&Cuda)) -> Option<String> {
    let name = type_name_of_val(&body).trim_end_matches("::{{closure}}");
    let name = name.split_once("::").unwrap().1;
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        body(&Cuda::open());
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD, name).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let ended = began.elapsed() < LIMIT;
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(ended, "still running after {LIMIT:?}\n{said}\n{stdout}");
    assert!(output.status.success(), "{said}\n{stdout}");
    Some(said)
}

/// With work that runs only when somebody waits.
pub const LATE: (&str, &str) = ("SOFTGPU_DELAY", "wait");

impl Cuda {
    fn open() -> Cuda {
        let program = std::env::current_exe().unwrap();
        let library = program.with_file_name("libsoftgpu.so");
        // SAFETY: the library's initialisers do nothing.
        Cuda(unsafe { Library::new(library).unwrap() })
    }

    /// Calls a function: every argument is a machine word, and words too many do no harm.
    pub fn call(&self, name: &str, arguments: &[usize]) -> u32 {
        type W = usize;
        type Function = unsafe extern "C" fn(W, W, W, W, W, W, W, W, W, W, W) -> u32;
        let mut a = [0; 11];
        a[..arguments.len()].copy_from_slice(arguments);
        // SAFETY: the tests pass what the function of this name expects.
        unsafe {
            let function = self.0.get::<Function>(name.as_bytes()).unwrap();
            function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10])
        }
    }

    #[track_caller]
    pub fn ok(&self, name: &str, arguments: &[usize]) {
        assert_eq!(self.call(name, arguments), 0, "{name}");
    }

    /// Calls a function whose first argument receives a word, and returns the word.
    #[track_caller]
    pub fn get(&self, name: &str, arguments: &[usize]) -> usize {
        let mut result = 0usize;
        let all: Vec<usize> =
            [&raw mut result as usize].into_iter().chain(arguments.iter().copied()).collect();
        self.ok(name, &all);
        result
    }

    #[track_caller]
    pub fn refuses(&self, code: u32, name: &str, arguments: &[usize]) {
        assert_eq!(self.call(name, arguments), code, "{name}");
    }

    /// `cuInit`, and the primary context made current.
    pub fn start(&self) -> usize {
        self.ok("cuInit", &[0]);
        let context = self.get("cuDevicePrimaryCtxRetain", &[0]);
        self.ok("cuCtxSetCurrent", &[context]);
        context
    }

    pub fn stream(&self) -> usize {
        self.get("cuStreamCreate", &[1])
    }

    pub fn event(&self) -> usize {
        self.get("cuEventCreate", &[0])
    }

    /// A block that holds these values.
    pub fn block(&self, values: &[u32]) -> usize {
        let block = self.get("cuMemAlloc_v2", &[size_of_val(values)]);
        self.ok("cuMemcpyHtoD_v2", &[block, values.as_ptr() as usize, size_of_val(values)]);
        block
    }

    /// The values of a block, through the legacy default stream.
    pub fn values<const N: usize>(&self, block: usize) -> [u32; N] {
        let mut values = [0; N];
        self.ok("cuMemcpyDtoH_v2", &[values.as_mut_ptr() as usize, block, size_of_val(&values)]);
        values
    }

    pub fn function(&self, name: &CStr) -> usize {
        let module = self.get("cuModuleLoadData", &[PTX.as_ptr() as usize]);
        self.get("cuModuleGetFunction", &[module, name.as_ptr() as usize])
    }

    /// Adds `by` to the first `count` values of a block, in a stream.
    pub fn increment(&self, function: usize, block: usize, by: u32, count: u32, stream: usize) -> u32 {
        let arguments = [&raw const block as usize, &raw const by as usize, &raw const count as usize];
        self.call("cuLaunchKernel", &[function, 1, 1, 1, 32, 1, 1, 0, stream, arguments.as_ptr() as usize, 0])
    }
}

/// Room for a result that nobody reads.
pub fn room() -> usize {
    Box::leak(Box::new([0usize; 2])).as_ptr() as usize
}
