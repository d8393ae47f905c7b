//! Functions that cudarc may call and that are not modelled. Each says so instead of being absent: cudarc
//! panics at a name that it does not find. They are declared without arguments, which the calling convention
//! allows: the caller puts arguments in place and takes them away.

use crate::codes::Code;

macro_rules! missing {
    ($($name:ident)*) => {
        calls! {
            $(Nothing $name() { Err(Code::NOT_SUPPORTED.because("not modelled by the software driver")) })*
        }
    };
}

missing! {
    cuCtxCreate_v3
    cuDestroyExternalMemory
    cuDeviceSetMemPool
    cuExternalMemoryGetMappedBuffer
    cuImportExternalMemory
    cuLaunchCooperativeKernel
    cuMemAdvise_v2
    cuMemAllocFromPoolAsync
    cuMemAllocManaged
    cuMemcpyPeerAsync
    cuMemPoolCreate
    cuMemPoolDestroy
    cuMemPoolGetAttribute
    cuMemPoolSetAttribute
    cuMemPrefetchAsync_v2
    cuModuleGetGlobal_v2
    cuOccupancyAvailableDynamicSMemPerBlock
    cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize
    cuStreamAttachMemAsync
}
