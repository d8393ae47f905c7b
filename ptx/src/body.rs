//! The body of a kernel: declarations, labels, and drafts of instructions whose registers have no rows yet.

use crate::ParseError;
use crate::counts::{classify, reaches_memory};
use crate::flow;
use crate::instruction::*;
use crate::lanes::{Constants, LANES, Row};
use crate::module::{Kernel, Param, Scope, Symbol, Variable, location};
use crate::opcode;
use crate::text::{Operand, Words};
use std::collections::HashMap;

/// An operand whose slot is a virtual register or a constant; `at` is its place in `Operands::slots`, or,
/// from `OPERANDS` on, in those of `Mma`.
#[derive(Clone, Copy, Debug)]
pub struct DraftOperand {
    pub class: Class,
    pub usage: Use,
    pub slot: Slot,
    pub at: usize,
}

/// An instruction before its registers have rows.
pub struct Draft<'a> {
    pub run: Run,
    pub operands: Vec<DraftOperand>,
    pub arg: u32,
    pub guard: Option<Guard>,
    /// The label that a branch goes to.
    pub target: Option<&'a str>,
    pub description: Description,
}

/// Registers declared as `%r<10>` (with a count) or `%r`.
struct Declared {
    class: Class,
    first: usize,
    count: Option<usize>,
}

type Names<'a> = (HashMap<&'a str, Declared>, HashMap<&'a str, Symbol>);

/// A kernel's body while it is parsed.
pub struct Body<'a, 's> {
    scope: &'s Scope<'a>,
    names: Vec<Names<'a>>,
    labels: HashMap<&'a str, u32>,
    pub drafts: Vec<Draft<'a>>,
    constants: Constants,
    known: HashMap<(Class, u64), Slot>,
    specials: HashMap<(Special, Class), Slot>,
    /// The number of virtual registers of each class.
    pub registers: [usize; 3],
    shared: usize,
    local: usize,
    pub line: u32,
    source: Source,
}

impl<'a, 's> Body<'a, 's> {
    /// A kernel, from the name after `.entry` to the brace that ends it.
    pub(crate) fn kernel(words: &mut Words<'a>, scope: &'s Scope<'a>) -> Result<Kernel, ParseError> {
        let name = words.next();
        let mut body = Body {
            scope,
            names: vec![Default::default()],
            labels: HashMap::new(),
            drafts: Vec::new(),
            constants: Constants::default(),
            known: HashMap::new(),
            specials: HashMap::new(),
            registers: [0; 3],
            shared: scope.shared,
            local: 0,
            line: words.line,
            source: Source::default(),
        };
        let params = body.params(words)?;
        let mut max_threads = None;
        loop {
            match words.next() {
                "{" => break,
                ".maxntid" | ".reqntid" => {
                    let mut threads = words.size()? as u32;
                    while words.take(",") {
                        threads *= words.size()? as u32;
                    }
                    max_threads = Some(threads);
                }
                ".minnctapersm" | ".maxnreg" => {
                    words.size()?;
                }
                ".pragma" => while !matches!(words.next(), ";" | "") {},
                word => return Err(words.error(format!("unknown directive `{word}` before a kernel's body"))),
            }
        }
        body.statements(words)?;
        let static_shared = body.shared;
        let local_size = body.local.next_multiple_of(16);
        let mut specials: Vec<(Special, Class, Slot)> =
            body.specials.iter().map(|(&(special, class), &slot)| (special, class, slot)).collect();
        specials.sort_by_key(|&(_, class, slot)| (class, slot.index()));
        let code =
            flow::finish(body.drafts, &body.labels, body.constants, specials, body.registers, local_size)?;
        let block_time = Default::default();
        Ok(Kernel { name: name.into(), params, static_shared, max_threads, code, block_time })
    }

    fn params(&mut self, words: &mut Words<'a>) -> Result<Vec<Param>, ParseError> {
        let mut params = Vec::<Param>::new();
        if !words.take("(") {
            return Ok(params);
        }
        while !words.take(")") {
            words.expect(".param")?;
            let variable = Variable::parse(words)?;
            let end = params.last().map_or(0, |param| param.offset + param.size);
            let offset = end.next_multiple_of(variable.align);
            params.push(Param { size: variable.size, align: variable.align, offset });
            self.names[0].1.insert(variable.name, Symbol::Param(offset));
            words.take(",");
        }
        Ok(params)
    }

    fn statements(&mut self, words: &mut Words<'a>) -> Result<(), ParseError> {
        loop {
            let word = words.next();
            self.line = words.line;
            match word {
                "" => return Err(words.error("the kernel's body has no end")),
                "{" => self.names.push(Default::default()),
                "}" => {
                    if self.names.len() == 1 {
                        return Ok(());
                    }
                    self.names.pop();
                }
                ".loc" => self.source = location(words)?,
                ".pragma" => while !matches!(words.next(), ";" | "") {},
                ".reg" => self.registers(words)?,
                ".shared" | ".local" => self.variable(words, word)?,
                ";" => {}
                _ if word.starts_with('.') => return Err(words.error(format!("unknown directive `{word}`"))),
                _ if words.take(":") => {
                    self.labels.insert(word, self.drafts.len() as u32);
                }
                _ => self.instruction(words, word)?,
            }
        }
    }

    fn registers(&mut self, words: &mut Words<'a>) -> Result<(), ParseError> {
        let word = words.next();
        let class = match word {
            ".pred" => Class::Predicate,
            ".b64" | ".u64" | ".s64" | ".f64" => Class::Double,
            ".b8" | ".b16" | ".u16" | ".s16" | ".f16" | ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => {
                Class::Word
            }
            _ => return Err(words.error(format!("registers of type `{word}` are not modelled"))),
        };
        while !words.take(";") {
            let name = words.next();
            let count = if words.take("<") { Some(words.size()?) } else { None };
            if count.is_some() {
                words.expect(">")?;
            }
            let first = self.registers[class as usize];
            self.registers[class as usize] += count.unwrap_or(1);
            let scope = self.names.len() - 1;
            self.names[scope].0.insert(name, Declared { class, first, count });
            words.take(",");
        }
        if self.registers[class as usize] > Slot::LIMIT / 2 {
            return Err(words.error("too many registers"));
        }
        Ok(())
    }

    fn variable(&mut self, words: &mut Words<'a>, space: &str) -> Result<(), ParseError> {
        let variable = Variable::parse(words)?;
        let end = if space == ".shared" { &mut self.shared } else { &mut self.local };
        let offset = end.next_multiple_of(variable.align);
        *end = offset + variable.size;
        let symbol = if space == ".shared" { Symbol::Shared(offset) } else { Symbol::Local(offset) };
        let scope = self.names.len() - 1;
        self.names[scope].1.insert(variable.name, symbol);
        Ok(())
    }

    fn instruction(&mut self, words: &mut Words<'a>, first: &'a str) -> Result<(), ParseError> {
        let (mut opcode, mut guard) = (first, None);
        if first == "@" {
            let negated = words.take("!");
            let predicate = self.read(&Operand::Name(words.next()), Class::Predicate)?;
            guard = Some(Guard { predicate, negated });
            opcode = words.next();
        }
        let mut operands = Vec::new();
        while !words.take(";") {
            operands.push(Operand::parse(words)?);
            if words.peek() != ";" {
                words.expect(",")?;
            }
        }
        opcode::decode(self, opcode, &operands, guard)
    }

    pub fn error(&self, reason: impl Into<String>) -> ParseError {
        ParseError { line: self.line, reason: reason.into() }
    }

    /// Appends an instruction.
    pub fn push(
        &mut self,
        opcode: &str,
        run: Run,
        operands: Vec<DraftOperand>,
        arg: u32,
        guard: Option<Guard>,
    ) {
        let (category, flops) = classify(opcode);
        let description = Description {
            opcode: opcode.into(),
            line: self.line,
            source: self.source,
            category,
            flops,
            reaches_memory: reaches_memory(opcode),
        };
        self.drafts.push(Draft { run, operands, arg, guard, target: None, description });
    }

    fn declared(&self, name: &str) -> Option<(Class, Slot)> {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let number = name[digits..].parse::<usize>().ok();
        self.names.iter().rev().find_map(|(registers, _)| {
            if let Some(Declared { class, first, count: None }) = registers.get(name) {
                return Some((*class, Slot::register(*first)));
            }
            match (registers.get(&name[..digits]), number) {
                (Some(Declared { class, first, count: Some(count) }), Some(n)) if n < *count => {
                    Some((*class, Slot::register(first + n)))
                }
                _ => None,
            }
        })
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        let local = self.names.iter().rev().find_map(|(_, symbols)| symbols.get(name));
        local.or_else(|| self.scope.symbols.get(name)).copied()
    }

    /// The class of a register, if the name is one.
    pub fn class_of(&self, name: &str) -> Option<Class> {
        self.declared(name).map(|(class, _)| class)
    }

    pub fn constant(&mut self, class: Class, value: u64) -> Slot {
        if let Some(&slot) = self.known.get(&(class, value)) {
            return slot;
        }
        let slot = match class {
            Class::Word => {
                self.constants.words.push(Row([value as u32; LANES]));
                self.constants.words.len()
            }
            Class::Double => {
                self.constants.doubles.push(Row([value; LANES]));
                self.constants.doubles.len()
            }
            Class::Predicate => {
                self.constants.predicates.push(if value == 0 { 0 } else { u32::MAX });
                self.constants.predicates.len()
            }
        };
        *self.known.entry((class, value)).or_insert(Slot::constant(slot - 1))
    }

    pub fn fresh(&mut self, class: Class) -> Slot {
        self.registers[class as usize] += 1;
        Slot::register(self.registers[class as usize] - 1)
    }

    fn special(&mut self, special: Special, class: Class) -> Slot {
        if let Some(&slot) = self.specials.get(&(special, class)) {
            return slot;
        }
        let slot = self.fresh(class);
        self.specials.insert((special, class), slot);
        slot
    }

    /// A source operand of a class.
    pub fn read(&mut self, operand: &Operand, class: Class) -> Result<Slot, ParseError> {
        let value = match *operand {
            Operand::Integer(value) => value as u64,
            Operand::Float(bits) if class == Class::Double => (f32::from_bits(bits) as f64).to_bits(),
            Operand::Float(bits) => bits as u64,
            Operand::Double(bits) if class == Class::Double => bits,
            Operand::Double(bits) => (f64::from_bits(bits) as f32).to_bits() as u64,
            Operand::Name("WARP_SZ") => LANES as u64,
            Operand::Name(name) => {
                if let Some((found, slot)) = self.declared(name) {
                    if found != class {
                        return Err(self.error(format!("`{name}` is of another size than the instruction")));
                    }
                    return Ok(slot);
                }
                match self.symbol(name) {
                    Some(Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at)) => at as u64,
                    Some(Symbol::DynamicShared) => return Ok(self.special(Special::DynamicShared, class)),
                    Some(Symbol::Global(at)) if class == Class::Double => {
                        return Ok(self.special(Special::Global(at), class));
                    }
                    _ => match special_register(name) {
                        Some(special) => return Ok(self.special(special, class)),
                        None => return Err(self.error(format!("`{name}` is not known here"))),
                    },
                }
            }
            _ => return Err(self.error("an operand of this form does not fit the instruction")),
        };
        let value = if class == Class::Word { value & 0xffff_ffff } else { value };
        Ok(self.constant(class, value))
    }

    /// A destination of a class; `_` is a register that nobody reads.
    pub fn write(&mut self, operand: &Operand, class: Class) -> Result<Slot, ParseError> {
        match operand {
            Operand::Name("_") => Ok(self.fresh(class)),
            Operand::Name(name) if self.declared(name).is_some() => self.read(operand, class),
            _ => Err(self.error("the destination is no register")),
        }
    }

    /// The base register or constant of an address, its class and its offset.
    pub fn address(&mut self, operand: &Operand) -> Result<(Slot, Class, i64), ParseError> {
        let Operand::Address(base, offset) = *operand else { return Err(self.error("expected an address")) };
        let Some(name) = base else { return Ok((self.constant(Class::Double, 0), Class::Double, offset)) };
        let class = match (self.class_of(name), self.symbol(name)) {
            (Some(class), _) => class,
            (None, Some(Symbol::Global(_))) => Class::Double,
            _ => Class::Word,
        };
        Ok((self.read(&Operand::Name(name), class)?, class, offset))
    }
}

fn special_register(name: &str) -> Option<Special> {
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((register, part)) = name.split_once('.') {
        let axis = axis(part)?;
        return match register {
            "%tid" => Some(Special::Tid(axis)),
            "%ntid" => Some(Special::Ntid(axis)),
            "%ctaid" => Some(Special::Ctaid(axis)),
            "%nctaid" => Some(Special::Nctaid(axis)),
            _ => None,
        };
    }
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
