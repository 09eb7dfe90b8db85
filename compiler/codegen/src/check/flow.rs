//! Which bytes of the code are instructions, by following control flow.

use super::report::{Class, Finding, Problem, Tally};
use crate::emit::link::FLOAT_TEXT;

/// Where execution goes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// To the next instruction.
    Next,
    /// To an address only.
    Jump(u64),
    /// To an address or to the next instruction.
    Branch(u64),
    /// To an address, and back.
    Call(u64),
    /// Nowhere: a return or a trap.
    Stop,
    /// To an address that is computed.
    Computed,
}

/// One decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decoded {
    pub bytes: usize,
    pub class: Class,
    pub flow: Flow,
    /// Address that the instruction computes from its own, if it does.
    pub address: Option<u64>,
}

/// An instruction set. Both functions take bytes that start with an instruction, and the address of the first.
#[derive(Clone, Copy)]
pub(super) struct Isa {
    /// What the instruction is; `None` if it is none.
    pub decode: fn(&[u8], u64) -> Option<Decoded>,
    /// The instruction written out, or its bytes if it is none.
    pub write: fn(&[u8], u64) -> String,
}

/// An executable section.
pub(super) struct Section<'d> {
    name: String,
    start: u64,
    data: &'d [u8],
    /// What is known of each byte.
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    /// First byte of an instruction that has been decoded.
    Instruction,
    Inside,
}

/// A function of the symbol table.
pub(super) struct Function {
    pub start: u64,
    pub size: u64,
    pub name: String,
}

/// The state of a check.
pub(super) struct Walk<'d> {
    isa: Isa,
    sections: Vec<Section<'d>>,
    /// By start; those of equal start reduced to one.
    functions: Vec<Function>,
    /// Addresses that execution reaches and that are not decoded yet, all within sections.
    open: Vec<u64>,
    integer: Tally,
    float_interface: Tally,
}

impl<'d> Section<'d> {
    pub fn new(name: String, start: u64, data: &'d [u8]) -> Self {
        Section { name, start, data, marks: vec![Mark::Unseen; data.len()] }
    }

    /// The bytes from an address in it on.
    pub fn bytes_from(&self, address: u64) -> Option<&'d [u8]> {
        self.offset(address).map(|offset| &self.data[offset..])
    }

    fn offset(&self, address: u64) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        (offset < self.data.len()).then_some(offset)
    }

    fn is_float_text(&self) -> bool {
        self.name == FLOAT_TEXT
    }
}

impl<'d> Walk<'d> {
    pub fn new(isa: Isa, sections: Vec<Section<'d>>, mut functions: Vec<Function>) -> Self {
        functions.retain(|f| f.size > 0 && sections.iter().any(|s| s.offset(f.start).is_some()));
        functions.sort_by_key(|f| (f.start, std::cmp::Reverse(f.size)));
        functions.dedup_by_key(|f| f.start);
        let open = functions.iter().map(|f| f.start).collect();
        Walk { isa, sections, functions, open, integer: Tally::default(), float_interface: Tally::default() }
    }

    /// Decodes everything; the results are those of integer code and of the float interface.
    pub fn run(mut self) -> (Tally, Tally) {
        self.follow();
        self.sweep();
        for section in &self.sections {
            let tally = if section.is_float_text() { &mut self.float_interface } else { &mut self.integer };
            tally.sections.push(section.name.clone());
            tally.unreached_bytes += section.marks.iter().filter(|m| **m == Mark::Unseen).count() as u64;
        }
        self.integer.findings.sort_by_key(|f| f.address);
        self.float_interface.findings.sort_by_key(|f| f.address);
        (self.integer, self.float_interface)
    }

    /// Control flow from all open addresses.
    fn follow(&mut self) {
        while let Some(mut address) = self.open.pop() {
            while let Some((section, offset)) = self.locate(address) {
                if self.sections[section].marks[offset] == Mark::Instruction {
                    break;
                }
                let Some(decoded) = self.visit(section, offset) else { break };
                match decoded.flow {
                    Flow::Next | Flow::Call(_) | Flow::Branch(_) => address += decoded.bytes as u64,
                    Flow::Jump(_) | Flow::Stop | Flow::Computed => break,
                }
            }
        }
    }

    /// Everything outside of functions, byte after byte; also what is reached from there.
    fn sweep(&mut self) {
        for section in 0..self.sections.len() {
            let mut offset = 0;
            while offset < self.sections[section].data.len() {
                let address = self.sections[section].start + offset as u64;
                if let Some(function) = self.function_at(address) {
                    offset += (function.start + function.size - address) as usize;
                } else if self.sections[section].marks[offset] != Mark::Unseen {
                    offset += 1;
                } else {
                    offset += self.visit(section, offset).map_or(1, |decoded| decoded.bytes);
                    self.follow();
                }
            }
        }
    }

    /// Decodes and counts one instruction, and opens the addresses that it leads to.
    fn visit(&mut self, section: usize, offset: usize) -> Option<Decoded> {
        let (data, address) = (self.sections[section].data, self.sections[section].start + offset as u64);
        let Isa { decode, write } = self.isa;
        let decoded = decode(&data[offset..], address);
        let text = || write(&data[offset..], address);
        let marks = &mut self.sections[section].marks[offset..];
        let Some(decoded) = decoded else {
            marks[0] = Mark::Instruction;
            self.find(section, address, Problem::Undecodable, text());
            return None;
        };
        marks[..decoded.bytes].iter_mut().filter(|m| **m == Mark::Unseen).for_each(|m| *m = Mark::Inside);
        marks[0] = Mark::Instruction;
        let tally = self.tally(section);
        tally.instructions += 1;
        tally.neutral += u64::from(decoded.class == Class::Neutral);
        tally.float += u64::from(decoded.class == Class::Float);
        match decoded.class {
            Class::Float => self.find(section, address, Problem::Float, text()),
            Class::Foreign => self.find(section, address, Problem::Foreign, text()),
            Class::Integer | Class::Neutral => {}
        }
        match decoded.flow {
            Flow::Jump(to) | Flow::Branch(to) | Flow::Call(to) => match self.locate(to) {
                None => self.find(section, address, Problem::LeavesCode, text()),
                Some((other, _)) => {
                    self.open.push(to);
                    self.refer(section, other, address, text);
                }
            },
            Flow::Computed => self.find(section, address, Problem::IndirectJump, text()),
            Flow::Next | Flow::Stop => {}
        }
        if let Some((to, (other, _))) = decoded.address.and_then(|to| Some(to).zip(self.locate(to))) {
            self.refer(section, other, address, text);
            if self.functions.binary_search_by_key(&to, |f| f.start).is_err() {
                self.find(section, address, Problem::InnerAddress, text());
            }
        }
        Some(decoded)
    }

    /// A reference between sections.
    fn refer(&mut self, from: usize, to: usize, address: u64, text: impl Fn() -> String) {
        if self.sections[to].is_float_text() && !self.sections[from].is_float_text() {
            self.find(from, address, Problem::EntersFloatText, text());
        }
    }

    fn find(&mut self, section: usize, address: u64, problem: Problem, text: String) {
        let function = self.function_at(address).map_or_else(String::new, |f| f.name.clone());
        self.tally(section).findings.push(Finding { address, function, problem, text });
    }

    fn tally(&mut self, section: usize) -> &mut Tally {
        if self.sections[section].is_float_text() { &mut self.float_interface } else { &mut self.integer }
    }

    fn locate(&self, address: u64) -> Option<(usize, usize)> {
        self.sections.iter().enumerate().find_map(|(i, s)| Some(i).zip(s.offset(address)))
    }

    fn function_at(&self, address: u64) -> Option<&Function> {
        let before = self.functions.partition_point(|f| f.start <= address).checked_sub(1)?;
        self.functions.get(before).filter(|f| address - f.start < f.size)
    }
}
