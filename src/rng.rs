#[derive(Clone, Copy)] pub struct Key { pub seed: u64, pub purpose: Purpose, pub epoch: u32, pub view: u32 }
#[derive(Clone, Copy)] pub enum Purpose { AttackStart = 1, EvalStart = 2, Augment = 3 }
impl Key { pub fn new(seed: u64, purpose: Purpose, epoch: u32, view: u32) -> Key { Key { seed, purpose, epoch, view } } }
pub struct Stream(u64);
impl Stream {
    pub fn new(seed: u64, name: &str) -> Stream { Stream(name.bytes().fold(seed ^ 0xcbf29ce484222325, |h, b| (h ^ b as u64).wrapping_mul(0x100000001b3))) }
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn uniform(&mut self) -> f32 { (self.bits() >> 40) as f32 / (1u64 << 24) as f32 }
    pub fn below(&mut self, n: usize) -> usize { (self.bits() % n as u64) as usize }
}
