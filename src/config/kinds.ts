/** The kinds of value a setting can have: how each is read from TOML or text, and how it is written. */
import { isIP } from 'node:net';
import { isAbsolute, join } from 'node:path';
import { parsePool } from '../core/addresses.ts';
import { parseUserRange } from '../core/vm-users.ts';
import { workMountProblem } from '../core/work-mount.ts';
import { BangerError } from '../errors.ts';
import { formatDuration, formatSize, MIB, parseDuration, parseSize } from '../units.ts';

/** What a value may be relative to. */
export interface ReadContext {
  /** the user's home directory, for a leading `~/` */
  home: string | undefined;
}

export interface Kind<T> {
  /** what a right value looks like, for messages and documentation, e.g. `a size such as "2GiB"` */
  expects: string;
  /**
   * The value of what TOML, a variable or a flag holds.
   * @throws BangerError `invalid_input` when it is no such value
   */
  read(raw: unknown, context: ReadContext): T;
  /** the value as TOML writes it */
  write(value: T): string;
}

/** The kernel of a small guest needs about this much to reach its init. */
const MIN_MEMORY_MIB = 64;

export function text(): Kind<string> {
  return textual('a text', (given) => given);
}

export function oneOf<const T extends string>(...choices: readonly T[]): Kind<T> {
  return textual(`one of ${choices.map((choice) => `"${choice}"`).join(', ')}`, (given) => {
    const found = choices.find((choice) => choice === given);
    if (found === undefined) throw invalid(`"${given}" is not a choice.`);
    return found;
  });
}

export function yesOrNo(): Kind<boolean> {
  return {
    expects: 'true or false',
    read(raw) {
      if (typeof raw === 'boolean') return raw;
      if (raw === 'true' || raw === 'false') return raw === 'true';
      throw invalid(`${shown(raw)} is neither true nor false.`);
    },
    write: String,
  };
}

export function wholeNumber(min: number, max: number): Kind<number> {
  return {
    expects: `a whole number from ${min} to ${max}`,
    read(raw) {
      const value = typeof raw === 'string' && /^-?\d+$/.test(raw) ? Number(raw) : raw;
      if (typeof value !== 'number' || !Number.isInteger(value)) throw invalid(`${shown(raw)} is not a whole number.`);
      if (value < min || value > max) throw invalid(`${value} is outside ${min} to ${max}.`);
      return value;
    },
    write: String,
  };
}

/** In bytes. */
export function size(minBytes: number): Kind<number> {
  return {
    expects: 'a size such as "512MiB" or "2GiB"',
    read(raw) {
      const bytes = parseSize(unitText(raw, '512MiB'));
      if (bytes < minBytes) throw invalid(`${formatSize(bytes)} is less than ${formatSize(minBytes)}.`);
      return bytes;
    },
    write: writeSize,
  };
}

/** Memory of a VM, in MiB. */
export function memory(): Kind<number> {
  const inBytes = size(MIN_MEMORY_MIB * MIB);
  return {
    expects: inBytes.expects,
    read(raw, context) {
      const bytes = inBytes.read(raw, context);
      if (bytes % MIB !== 0) throw invalid(`${formatSize(bytes)} is not a whole number of MiB.`);
      return bytes / MIB;
    },
    write: (mib) => writeSize(mib * MIB),
  };
}

/** In milliseconds. */
export function duration(minMs: number): Kind<number> {
  return {
    expects: 'a duration such as "30s" or "2m"',
    read(raw) {
      const ms = parseDuration(unitText(raw, '30s'));
      if (ms < minMs) throw invalid(`${formatDuration(ms)} is less than ${formatDuration(minMs)}.`);
      return ms;
    },
    write: writeDuration,
  };
}

/** In seconds. */
export function durationSeconds(minSeconds: number): Kind<number> {
  const inMs = duration(minSeconds * 1000);
  return {
    expects: inMs.expects,
    read(raw, context) {
      const ms = inMs.read(raw, context);
      if (ms % 1000 !== 0) throw invalid(`${formatDuration(ms)} is not a whole number of seconds.`);
      return ms / 1000;
    },
    write: (seconds) => inMs.write(seconds * 1000),
  };
}

export function absolutePath(): Kind<string> {
  return textual('an absolute path, or one that begins with "~/"', (given, { home }) => {
    const path = given.startsWith('~/') && home !== undefined ? join(home, given.slice(2)) : given;
    if (!isAbsolute(path)) throw invalid(`"${given}" is not an absolute path.`);
    return path;
  });
}

/** A directory of guests where a work disk can be mounted. */
export function workMount(): Kind<string> {
  return textual('an absolute path in the guest such as "/srv/work"', (given) => {
    const problem = workMountProblem(given);
    if (problem !== undefined) throw invalid(problem);
    return given;
  });
}

/** Where something is fetched from. */
export function webAddress(): Kind<string> {
  return textual('a URL that begins with http:// or https://', (given) => {
    if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol)) throw invalid(`"${given}" is no such URL.`);
    return given;
  });
}

/** A program: looked up in PATH, or exactly this file. */
export function program(): Kind<string> {
  return nameOrPath('a program name or its absolute path');
}

/** A bundle: below the bundles directory, or exactly this directory. */
export function nameOrPath(expects = 'a name or an absolute path'): Kind<string> {
  const path = absolutePath();
  return textual(expects, (given, context) => {
    if (given === '') throw invalid('it is empty.');
    if (given.includes('/')) return path.read(given, context);
    return given;
  });
}

export function pool(): Kind<string> {
  return textual('"auto" or an IPv4 range such as "172.30.0.0/16"', (given) => {
    if (given !== 'auto') parsePool(given);
    return given;
  });
}

export function userRange(): Kind<string> {
  return textual('"auto", "none" or a range of user ids such as "200000-265535"', (given) => {
    if (given !== 'auto' && given !== 'none') parseUserRange(given);
    return given;
  });
}

/** Interface names as Linux limits them (IFNAMSIZ less the final zero). */
export function networkInterface(): Kind<string> {
  return textual('"auto" or the name of a network interface', (given) => {
    if (!/^[^\s/:]{1,15}$/.test(given)) throw invalid(`"${given}" cannot be the name of a network interface.`);
    return given;
  });
}

export function address(): Kind<string> {
  return textual('an IPv4 or IPv6 address', (given) => {
    if (isIP(given) === 0) throw invalid(`"${given}" is not an address.`);
    return given;
  });
}

/** A zone in lower case and without its final dot; labels as RFC 1123 allows them. */
export function zone(): Kind<string> {
  return textual('a DNS zone such as "vm"', (given) => {
    const name = given.toLowerCase().replace(/\.$/, '');
    const labels = name.split('.');
    if (name.length > 190 || !labels.every((label) => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label))) {
      throw invalid(`"${given}" is not a DNS zone.`);
    }
    return name;
  });
}

/** A TOML array; in variables and flags the same separated by commas. */
export function listOf(kind: Kind<string>): Kind<string[]> {
  return {
    expects: `a list, each element ${kind.expects}`,
    read(raw, context) {
      if (Array.isArray(raw)) return raw.map((element) => kind.read(element, context));
      if (typeof raw !== 'string') throw invalid(`${shown(raw)} is not a list.`);
      const elements = raw.split(',').map((element) => element.trim());
      return elements.filter((element) => element !== '').map((element) => kind.read(element, context));
    },
    write: (values) => `[${values.map((value) => kind.write(value)).join(', ')}]`,
  };
}

function textual<T extends string>(expects: string, read: (given: string, context: ReadContext) => T): Kind<T> {
  return {
    expects,
    read(raw, context) {
      if (typeof raw !== 'string') throw invalid(`${shown(raw)} is not a text.`);
      return read(raw, context);
    },
    write: quoted,
  };
}

/** A bare number has no unit and could mean anything, so TOML numbers are refused. */
function unitText(raw: unknown, example: string): string {
  if (typeof raw === 'string') return raw;
  throw invalid(`${shown(raw)} has no unit; write it as "${example}".`);
}

function writeSize(bytes: number): string {
  return exactly(bytes, [
    ['GiB', 1024 * MIB],
    ['MiB', MIB],
    ['KiB', 1024],
    ['B', 1],
  ]);
}

function writeDuration(ms: number): string {
  return exactly(ms, [
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1000],
    ['ms', 1],
  ]);
}

/** The largest unit that loses nothing: reading it gives the same amount again. */
function exactly(amount: number, units: readonly [string, number][]): string {
  const [unit, factor] = units.find(([, candidate]) => amount >= candidate && amount % candidate === 0) ?? ['s', 1];
  return quoted(`${amount / factor}${unit === 's' && amount === 0 ? 's' : unit}`);
}

function quoted(value: string): string {
  return JSON.stringify(value);
}

function shown(raw: unknown): string {
  if (raw instanceof Date) return 'A date';
  if (Array.isArray(raw)) return 'A list';
  if (typeof raw === 'object') return 'A table';
  return typeof raw === 'string' ? quoted(raw) : String(raw);
}

function invalid(message: string): BangerError {
  return new BangerError('invalid_input', message);
}
