/** The body of `PUT /cpu-config`: numbers and bit patterns that are written as strings. */
import { JsonError } from '../json/scanner.ts';
import * as json from '../json/schema.ts';

const INVALID_DIGIT = 'invalid digit found in string';
const NO_DIGITS = 'cannot parse integer from empty string';
const TOO_LARGE = 'number too large to fit in target type';

/** What Rust calls the three ways in which a number cannot be read. */
const KINDS: Record<string, string> = {
  [INVALID_DIGIT]: 'InvalidDigit',
  [NO_DIGITS]: 'Empty',
  [TOO_LARGE]: 'PosOverflow',
};

/** `0b1` or `0x1`, of 32 bits. */
const number: json.Read<number> = json.converted((text) => {
  const [, prefix, digits = ''] = /^(0b|0x)(.*)$/s.exec(text) ?? [];
  if (prefix === undefined) {
    throw new JsonError(
      `No supported number system prefix found in value [${text}]. Make sure to prefix the number with '0x' for ` +
        "hexadecimal numbers or '0b' for binary numbers.",
    );
  }
  const value = parseU32(digits, prefix === '0b' ? /^[01]+$/ : /^[0-9a-f]+$/i, prefix);
  if (typeof value === 'number') return value;
  const kind = KINDS[value];
  throw new JsonError(
    `Failed to parse string [${text}] as a number for CPU template - ParseIntError { kind: ${kind} }`,
  );
});

/** `!1` takes a capability off the list of those that are needed. */
const kvmCapability: json.Read<string> = json.converted((text) => {
  const value = parseU32(text.replace(/^!/, ''), /^\d+$/, '');
  if (typeof value === 'number') return text;
  throw new JsonError(`Failed to parse string [${text}] as a kvm capability - can not convert to numeric: ${value}`);
});

/** One of `0`, `1`, `x` per bit, from the highest to the lowest. */
function bitmap(bits: number): json.Read<string> {
  return json.converted((text) => {
    let count = 0;
    for (const byte of Buffer.from(text.replace(/^0b/, '')).reverse()) {
      if (count === bits) throw new JsonError(`Failed to parse string [${text}] as a bitmap - string is too long`);
      const char = String.fromCharCode(byte);
      if (char === '_') continue;
      if (!/[x01]/.test(char)) {
        throw new JsonError(`Failed to parse string [${text}] as a bitmap - unknown character: ${byte}`);
      }
      count += 1;
    }
    return text;
  });
}

const register: json.Read<string> = json.converted((text) => {
  if (['eax', 'ebx', 'ecx', 'edx'].includes(text)) return text;
  throw new JsonError('Invalid CPUID register. Must be one of [eax, ebx, ecx, edx]');
});

const registerModifier = json.struct(
  'CpuidRegisterModifier',
  { register: json.required(register), bitmap: json.required(bitmap(32)) },
  { lenient: true },
);

const leafModifier = json.struct(
  'CpuidLeafModifier',
  {
    leaf: json.required(number),
    subleaf: json.required(number),
    flags: json.required(json.unsigned('u32')),
    modifiers: json.required(json.list(registerModifier)),
  },
  { lenient: true },
);

const msrModifier = json.struct(
  'RegisterModifier',
  { addr: json.required(number), bitmap: json.required(bitmap(64)) },
  { lenient: true },
);

export const cpuConfig = json.struct('CustomCpuTemplate', {
  kvm_capabilities: json.defaulted(json.list(kvmCapability), []),
  cpuid_modifiers: json.defaulted(json.list(leafModifier), []),
  msr_modifiers: json.defaulted(json.list(msrModifier), []),
});

/** @returns the number, else why there is none */
function parseU32(digits: string, allowed: RegExp, prefix: string): number | string {
  const unsigned = digits.replace(/^\+/, '');
  if (digits === '') return NO_DIGITS;
  if (!allowed.test(unsigned)) return INVALID_DIGIT;
  const value = BigInt(prefix + unsigned);
  return value < 2n ** 32n ? Number(value) : TOO_LARGE;
}
