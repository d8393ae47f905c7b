//! Graphs.

use super::driver;
use crate::call::Out;
use crate::codes::Code;
use crate::handles::{self, Handle, lock};
use crate::work::{Executable, Work};
use std::sync::{Arc, Mutex};

/// `AUTO_FREE_ON_LAUNCH`, `UPLOAD`, `DEVICE_LAUNCH`, `USE_NODE_PRIORITY`.
const FLAGS: u64 = 15;
const DEVICE_LAUNCH: u64 = 4;

calls! {
    Context cuGraphInstantiateWithFlags(result: Out<Handle>, graph: Handle, flags: u64) {
        if flags & !FLAGS != 0 || flags & DEVICE_LAUNCH != 0 {
            return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no flags that can be used here")));
        }
        let driver = driver()?;
        let graph = driver.graphs.find(graph, "graph")?;
        let (context, nodes) = (graph.context, graph.nodes.clone());
        let handle = handles::fresh();
        driver.executables.insert(handle, Arc::new(Executable { context, nodes, last: Mutex::default() }));
        result.set(handle)
    }

    Context cuGraphLaunch(executable: Handle, stream: Handle) {
        let driver = driver()?;
        let executable = driver.executables.find(executable, "executable graph")?;
        let stream = driver.stream(stream)?;
        if executable.context != stream.context {
            return Err(Code::INVALID_HANDLE.because("graph and stream belong to different contexts"));
        }
        let work = Work::Graph(executable.nodes.clone());
        if let Some(kernel) = work.unloaded() {
            let reason = format!("the module of the kernel {kernel} was unloaded");
            return Err(Code::INVALID_HANDLE.because(reason));
        }
        let mut last = lock(&executable.last);
        if let Some((other, ticket)) = last.take().filter(|(other, _)| other.id != stream.id) {
            driver.submit(&stream, Work::Wait(other, ticket))?;
        }
        let ticket = driver.submit(&stream, work)?;
        *last = ticket.map(|ticket| (stream, ticket));
        Ok(())
    }

    Context cuGraphUpload(executable: Handle, stream: Handle) {
        let driver = driver()?;
        driver.executables.find(executable, "executable graph")?;
        driver.stream(stream).map(|_| ())
    }

    /// The number of nodes; which they are is not modelled.
    Context cuGraphGetNodes(graph: Handle, nodes: *const Handle, count: Out<usize>) {
        if !nodes.is_null() {
            return Err(Code::NOT_SUPPORTED.because("nodes are not modelled, only their number"));
        }
        count.set(driver()?.graphs.find(graph, "graph")?.nodes.len())
    }

    Cleanup cuGraphDestroy(graph: Handle) {
        driver()?.graphs.remove(graph, "graph").map(|_| ())
    }

    /// May be called while the graph runs.
    Cleanup cuGraphExecDestroy(executable: Handle) {
        driver()?.executables.remove(executable, "executable graph").map(|_| ())
    }
}
