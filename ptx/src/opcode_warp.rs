//! Opcodes of barriers, shuffles, votes and matrix products: what lanes do together.

use crate::ParseError;
use crate::instruction::*;
use crate::matrix::Mma;
use crate::opcode::{Builder, Decoded};
use crate::text::Operand;

pub(crate) fn barrier(
    builder: &mut Builder,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand],
) -> Result<(Run, u32), ParseError> {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !matches!(*part, "cta" | "aligned")).collect();
    let unknown = builder.body.error(format!("unknown instruction `{opcode}`"));
    let (kind, sources) = match parts[1..] {
        ["warp", "sync"] if operands.len() == 1 => {
            builder.read(&operands[0], Class::Word, 0)?;
            return Ok((Run::WarpBarrier, 0));
        }
        ["sync"] => (BarrierKind::Sync, operands),
        ["arrive"] => (BarrierKind::Arrive, operands),
        ["red", kind, kind_type] => {
            let [d, rest @ .., p] = operands else { return Err(unknown) };
            let kind = match kind {
                "popc" => BarrierKind::Popc,
                "and" => BarrierKind::And,
                "or" => BarrierKind::Or,
                _ => return Err(unknown),
            };
            builder.write(d, if kind_type == "pred" { Class::Predicate } else { Class::Word }, 0)?;
            let (p, arg) = match p {
                Operand::Not(name) => (&Operand::Name(name), 1),
                p => (p, 0),
            };
            builder.read(p, Class::Predicate, 3)?;
            threads(builder, rest)?;
            return Ok((Run::Barrier(kind), arg));
        }
        _ => return Err(unknown),
    };
    threads(builder, sources)?;
    Ok((Run::Barrier(kind), 0))
}

/// The barrier's number and its count of threads; 0 where all threads of the block take part.
fn threads(builder: &mut Builder, operands: &[Operand]) -> Decoded {
    match operands {
        [barrier] => {
            builder.read(barrier, Class::Word, 1)?;
            builder.immediate(Class::Word, 0, 2);
        }
        [barrier, count] => {
            builder.read(barrier, Class::Word, 1)?;
            builder.read(count, Class::Word, 2)?;
        }
        _ => return Err(builder.body.error("a barrier takes its number and, at most, a count of threads")),
    }
    Ok(())
}

pub(crate) fn shuffle(
    builder: &mut Builder,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand],
) -> Result<(Run, u32), ParseError> {
    let kind = match parts {
        ["shfl", "sync", "up", "b32"] => Shuffle::Up,
        ["shfl", "sync", "down", "b32"] => Shuffle::Down,
        ["shfl", "sync", "bfly", "b32"] => Shuffle::Butterfly,
        ["shfl", "sync", "idx", "b32"] => Shuffle::Index,
        _ => return Err(builder.body.error(format!("unknown instruction `{opcode}`"))),
    };
    let [d, a, b, c, mask] = operands else {
        return Err(builder.body.error(format!("`{opcode}` takes 5 operands, not {}", operands.len())));
    };
    match d {
        Operand::Pair(d, p) => {
            builder.write(d, Class::Word, 0)?;
            builder.write(p, Class::Predicate, 1)?;
        }
        _ => {
            builder.write(d, Class::Word, 0)?;
            builder.sink(Class::Predicate, 1);
        }
    }
    for (at, source) in [a, b, c, mask].into_iter().enumerate() {
        builder.read(source, Class::Word, at + 2)?;
    }
    Ok((Run::Shuffle(kind), 0))
}

pub(crate) fn vote(
    builder: &mut Builder,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand],
) -> Result<(Run, u32), ParseError> {
    use Reduction::*;
    let word = (Class::Word, Class::Word);
    let (kind, (result, source)) = match parts {
        ["vote", "sync", "all", "pred"] => (Vote::All, (Class::Predicate, Class::Predicate)),
        ["vote", "sync", "any", "pred"] => (Vote::Any, (Class::Predicate, Class::Predicate)),
        ["vote", "sync", "uni", "pred"] => (Vote::Uniform, (Class::Predicate, Class::Predicate)),
        ["vote", "sync", "ballot", "b32"] => (Vote::Ballot, (Class::Word, Class::Predicate)),
        ["match", "any", "sync", "b32"] => (Vote::MatchAny, word),
        ["match", "any", "sync", "b64"] => (Vote::MatchAny, (Class::Word, Class::Double)),
        ["match", "all", "sync", "b32"] => (Vote::MatchAll, word),
        ["match", "all", "sync", "b64"] => (Vote::MatchAll, (Class::Word, Class::Double)),
        ["activemask", "b32"] => (Vote::Active, word),
        ["elect", "sync"] => (Vote::Elect, word),
        ["redux", "sync", "add", "u32" | "s32"] => (Vote::Reduce(Add), word),
        ["redux", "sync", "min", "u32"] => (Vote::Reduce(MinU), word),
        ["redux", "sync", "max", "u32"] => (Vote::Reduce(MaxU), word),
        ["redux", "sync", "min", "s32"] => (Vote::Reduce(MinS), word),
        ["redux", "sync", "max", "s32"] => (Vote::Reduce(MaxS), word),
        ["redux", "sync", "and", "b32"] => (Vote::Reduce(And), word),
        ["redux", "sync", "or", "b32"] => (Vote::Reduce(Or), word),
        ["redux", "sync", "xor", "b32"] => (Vote::Reduce(Xor), word),
        _ => return Err(builder.body.error(format!("unknown instruction `{opcode}`"))),
    };
    let zero = Operand::Integer(0);
    let all = Operand::Integer(-1);
    let (d, a, mask) = match (kind, operands) {
        (Vote::Active, [d]) => (d, &zero, &all),
        (Vote::Elect, [d, mask]) => (d, &zero, mask),
        (_, [d, a, mask]) => (d, a, mask),
        _ => return Err(builder.body.error(format!("`{opcode}` with {} operands", operands.len()))),
    };
    match d {
        Operand::Pair(d, p) => {
            builder.write(d, result, 0)?;
            builder.write(p, Class::Predicate, 1)?;
        }
        _ => {
            builder.write(d, result, 0)?;
            builder.sink(Class::Predicate, 1);
        }
    }
    let negated = matches!(a, Operand::Not(_)) as u32;
    let a = if let Operand::Not(name) = a { &Operand::Name(name) } else { a };
    builder.read(a, source, 2)?;
    builder.read(mask, Class::Word, 3)?;
    Ok((Run::Vote(kind), negated | ((source == Class::Double) as u32) << 1))
}

pub(crate) fn mma(
    builder: &mut Builder,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand],
) -> Result<(Run, u32), ParseError> {
    let Some((mut mma, sizes)) = Mma::of(parts) else {
        return Err(builder.body.error(format!("unknown instruction `{opcode}`")));
    };
    let mut at = OPERANDS;
    for (index, (operand, size)) in operands.iter().zip(sizes).enumerate() {
        let pieces = match operand {
            Operand::Vector(pieces) => pieces.as_slice(),
            single => std::slice::from_ref(single),
        };
        if pieces.len() != size {
            return Err(builder.body.error(format!("operand {index} of `{opcode}` takes {size} registers")));
        }
        for piece in pieces {
            if index == 0 {
                builder.write(piece, Class::Word, at)?;
            } else {
                builder.read(piece, Class::Word, at)?;
            }
            at += 1;
        }
    }
    mma.slots = vec![Slot::default(); at - OPERANDS];
    Ok((Run::Mma(Box::new(mma)), 0))
}
