//! Modules: the directives outside of kernels.

use crate::ParseError;
use crate::body::Body;
use crate::instruction::{BarrierKind, Code, Instruction, Run};
use crate::text::{Operand, Words, integer};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A parameter of a kernel, at its offset in `Launch::params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub size: usize,
    pub align: usize,
    pub offset: usize,
}

/// A kernel, decoded.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Bytes of shared memory that its variables take.
    pub static_shared: usize,
    /// The most threads of a block, from `.maxntid` or `.reqntid`.
    pub max_threads: Option<u32>,
    pub(crate) code: Code,
    /// Nanoseconds of a block in the last launch; 0 before the first.
    pub(crate) block_time: Arc<AtomicU64>,
}

impl Kernel {
    /// The number of PTX instructions.
    pub fn instructions(&self) -> usize {
        self.code.instructions.len()
    }
    /// Rows of words, double words and predicates that a warp needs: registers in use at once, not a GPU's.
    pub fn rows(&self) -> [usize; 3] {
        self.code.rows
    }
    /// The line of the PTX text that reads a register which some path leaves unwritten, if there is one.
    pub fn unwritten_register(&self) -> Option<u32> {
        self.code.unwritten.map(|at| self.code.descriptions[at].line)
    }
    pub(crate) fn param_bytes(&self) -> usize {
        self.params.last().map_or(0, |param| param.offset + param.size)
    }
}

/// Where a name points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    Shared(usize),
    DynamicShared,
    Local(usize),
    Param(usize),
    /// A variable of the module, `.global` or `.const`.
    Global(usize),
}

/// A declared variable.
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub size: usize,
    pub align: usize,
    pub bytes: Vec<u8>,
    pub unsized_array: bool,
}

/// Parsed and decoded PTX.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) id: u64,
    target: String,
    pub(crate) files: Vec<String>,
    kernels: Vec<Kernel>,
    by_name: HashMap<String, usize>,
    /// The initial bytes of the module's variables.
    pub(crate) variables: Vec<u8>,
}

/// What the bodies of kernels need to know of the module.
#[derive(Default)]
pub(crate) struct Scope<'a> {
    pub symbols: HashMap<&'a str, Symbol>,
    /// Module-level shared variables: their offsets are reserved in every kernel.
    pub shared: usize,
}

impl Module {
    /// Parses PTX; an instruction that the machine does not know is an error.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let mut module = Module {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            target: String::new(),
            files: vec![String::new()],
            kernels: Vec::new(),
            by_name: HashMap::new(),
            variables: Vec::new(),
        };
        let mut words = Words::new(text);
        let mut scope = Scope::default();
        loop {
            match words.next() {
                "" => break,
                ".version" | ".address_size" => {
                    words.next();
                }
                ".target" => {
                    module.target = words.next().to_string();
                    while words.take(",") {
                        words.next();
                    }
                }
                ".file" => module.file(&mut words)?,
                ".section" => {
                    while !matches!(words.next(), "{" | "") {}
                    while !matches!(words.next(), "}" | "") {}
                }
                ".visible" | ".extern" | ".weak" | ".common" => {}
                ".pragma" => while !matches!(words.next(), ";" | "") {},
                ".entry" => {
                    let kernel = Body::kernel(&mut words, &scope)?;
                    module.by_name.insert(kernel.name.clone(), module.kernels.len());
                    module.kernels.push(kernel);
                }
                ".func" => return Err(words.error("device functions (.func) are not modelled; inline them")),
                ".shared" => {
                    let variable = Variable::parse(&mut words)?;
                    if variable.unsized_array {
                        scope.symbols.insert(variable.name, Symbol::DynamicShared);
                    } else {
                        let offset = scope.shared.next_multiple_of(variable.align);
                        scope.shared = offset + variable.size;
                        scope.symbols.insert(variable.name, Symbol::Shared(offset));
                    }
                }
                ".global" | ".const" => {
                    let variable = Variable::parse(&mut words)?;
                    let offset = module.variables.len().next_multiple_of(variable.align);
                    module.variables.resize(offset, 0);
                    module.variables.extend(&variable.bytes);
                    scope.symbols.insert(variable.name, Symbol::Global(offset));
                }
                word => return Err(words.error(format!("unknown directive `{word}`"))),
            }
        }
        Ok(module)
    }

    fn file(&mut self, words: &mut Words) -> Result<(), ParseError> {
        let number = words.size()?;
        let name = words.next().trim_matches('"').to_string();
        while words.take(",") {
            words.integer()?;
        }
        if number >= self.files.len() {
            self.files.resize(number + 1, String::new());
        }
        self.files[number] = name;
        Ok(())
    }

    /// A mutant: the module without the nth (from 1) wait of a kernel. Waits are `bar.sync` and
    /// `barrier.sync`, `bar.warp.sync`, `cp.async.wait_group` and `wait_all`. Instructions keep their
    /// numbers, lines and counts. Errors: no such kernel or instruction.
    pub fn without_wait(mut self, kernel: &str, nth: usize) -> Result<Module, String> {
        let Some(&at) = self.by_name.get(kernel) else { return Err(format!("no kernel {kernel}")) };
        let waits = |instruction: &&mut Instruction| {
            matches!(instruction.run, Run::Barrier(BarrierKind::Sync) | Run::WarpBarrier | Run::AsyncWait(_))
        };
        let mut found = self.kernels[at].code.instructions.iter_mut().filter(waits);
        match nth.checked_sub(1).and_then(|skipped| found.nth(skipped)) {
            Some(instruction) => instruction.run = Run::Nothing,
            None => {
                let count = self.kernels[at].code.instructions.iter_mut().filter(waits).count();
                return Err(format!("{kernel} has {count} instructions that wait, there is no number {nth}"));
            }
        }
        Ok(self)
    }

    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.by_name.get(name).map(|&at| &self.kernels[at])
    }
    /// The architecture that the PTX was made for, such as `sm_90`.
    pub fn target(&self) -> &str {
        &self.target
    }
    /// The source files, by the number that `.loc` uses.
    pub fn files(&self) -> &[String] {
        &self.files
    }
}

/// The bytes of a fundamental type, such as `.f32`.
pub(crate) fn type_size(name: &str) -> Option<usize> {
    Some(match name {
        "pred" => 1,
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

impl<'a> Variable<'a> {
    /// `.align 4 .f32 name[2][3] = {…};` after the state space; a parameter has no initial value.
    pub fn parse(words: &mut Words<'a>) -> Result<Variable<'a>, ParseError> {
        let (mut align, mut vector, mut element) = (0, 1, 0);
        let name = loop {
            match words.next() {
                ".align" => align = words.size()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                // `.ptr .global .align 4` of a parameter describes what it points to.
                ".ptr" => {
                    while words.peek().starts_with('.') {
                        if words.next() == ".align" {
                            words.size()?;
                        }
                    }
                }
                ".attribute" => while !matches!(words.next(), ")" | "") {},
                word if word.starts_with('.') => {
                    let size = type_size(&word[1..]);
                    element = size.ok_or_else(|| words.error(format!("unknown type `{word}`")))?;
                }
                word => break word,
            }
        };
        let (mut count, mut unsized_array) = (1, false);
        while words.take("[") {
            if words.take("]") {
                unsized_array = true;
            } else {
                count *= words.size()?;
                words.expect("]")?;
            }
        }
        let unit = element;
        let mut bytes = Vec::new();
        if words.take("=") {
            Variable::initial(words, unit, &mut bytes)?;
        }
        words.take(";");
        let size = (element * vector * count).max(bytes.len());
        bytes.resize(size, 0);
        Ok(Variable { name, size, align: align.max(element * vector).max(1), bytes, unsized_array })
    }

    fn initial(words: &mut Words<'a>, unit: usize, bytes: &mut Vec<u8>) -> Result<(), ParseError> {
        if words.take("{") {
            while !words.take("}") {
                Variable::initial(words, unit, bytes)?;
                words.take(",");
            }
            return Ok(());
        }
        let value = match Operand::parse(words)? {
            Operand::Integer(value) => value as u64,
            Operand::Float(bits) => bits as u64,
            Operand::Double(bits) if unit == 8 => bits,
            Operand::Double(bits) => (f64::from_bits(bits) as f32).to_bits() as u64,
            Operand::Name(name) => {
                return Err(
                    words.error(format!("an initial value that is an address (`{name}`) is not modelled"))
                );
            }
            _ => return Err(words.error("bad initial value")),
        };
        bytes.extend(&value.to_le_bytes()[..unit.min(8)]);
        Ok(())
    }
}

/// The parts of `.loc FILE LINE COLUMN[, function_name LABEL[+N], inlined_at FILE LINE COLUMN]`.
pub(crate) fn location(words: &mut Words) -> Result<crate::instruction::Source, ParseError> {
    let number = |words: &mut Words| {
        let word = words.next();
        integer(word).map(|n| n as u32).ok_or_else(|| words.error(format!("bad .loc: `{word}`")))
    };
    let mut source =
        crate::instruction::Source { file: number(words)?, line: number(words)?, inlined_at: (0, 0) };
    number(words)?;
    while words.take(",") {
        match words.next() {
            "function_name" => {
                words.next();
                if words.take("+") {
                    words.integer()?;
                }
            }
            "inlined_at" => {
                source.inlined_at = (number(words)?, number(words)?);
                number(words)?;
            }
            word => return Err(words.error(format!("unknown part of .loc: `{word}`"))),
        }
    }
    Ok(source)
}
