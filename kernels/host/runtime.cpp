// The one piece of state that kernels and the host device share: the block that runs on this OS thread.
#include "shim.h"

extern "C" {
__thread SaddleBlock* saddle_block = nullptr;
void saddle_set_block(SaddleBlock* block) { saddle_block = block; }
SaddleBlock* saddle_get_block() { return saddle_block; }
}
