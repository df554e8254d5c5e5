/**
 * The lower half of the JSON reader: bytes, positions, strings and numbers, with the messages, lines and
 * columns of Rust's serde_json. Firecracker's error texts are serde's, and clients match on them.
 */
import { floatText } from './number-text.ts';

/** A rejected document; `position` is missing until the enclosing value fixes it, as in serde_json. */
export class JsonError extends Error {
  readonly reason: string;
  readonly position: Position | undefined;

  constructor(reason: string, position?: Position) {
    super(position ? `${reason} at line ${position.line} column ${position.column}` : reason);
    this.name = 'JsonError';
    this.reason = reason;
    this.position = position;
  }

  /** Rust's debug form */
  get debug(): string {
    const { line, column } = this.position ?? { line: 0, column: 0 };
    return `Error(${debugText(this.reason)}, line: ${line}, column: ${column})`;
  }
}

export interface Position {
  /** 1-based */
  line: number;
  /** bytes since the last newline */
  column: number;
}

/** A JSON number in the class serde_json puts it: integers that fit 64 bits stay exact. */
export type JsonNumber = { kind: 'unsigned' | 'signed'; value: bigint } | { kind: 'float'; value: number };

export const BYTE = {
  tab: 0x09,
  newline: 0x0a,
  carriageReturn: 0x0d,
  space: 0x20,
  quote: 0x22,
  comma: 0x2c,
  minus: 0x2d,
  dot: 0x2e,
  zero: 0x30,
  nine: 0x39,
  colon: 0x3a,
  openBracket: 0x5b,
  backslash: 0x5c,
  closeBracket: 0x5d,
  f: 0x66,
  n: 0x6e,
  t: 0x74,
  openBrace: 0x7b,
  closeBrace: 0x7d,
} as const;

const ESCAPES: Record<string, string> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
};

export class JsonScanner {
  readonly #bytes: Buffer;
  /** the byte that comes next */
  protected index = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Skips white space and shows the next byte without consuming it; undefined at the end. */
  peekToken(): number | undefined {
    for (;;) {
      const byte = this.#bytes[this.index];
      if (byte !== BYTE.space && byte !== BYTE.newline && byte !== BYTE.tab && byte !== BYTE.carriageReturn)
        return byte;
      this.index += 1;
    }
  }

  /** Like `peekToken`, but the end of the document is an error. */
  expectToken(): number {
    const byte = this.peekToken();
    if (byte === undefined) throw this.peekError('EOF while parsing a value');
    return byte;
  }

  /** An error at the last consumed byte. */
  error(reason: string): JsonError {
    return new JsonError(reason, this.#positionOf(this.index));
  }

  /** An error at the byte that comes next. */
  peekError(reason: string): JsonError {
    return new JsonError(reason, this.#positionOf(Math.min(this.#bytes.length, this.index + 1)));
  }

  /** Gives an error without a position the current one; others pass unchanged. */
  fixed(error: unknown): unknown {
    return error instanceof JsonError && !error.position ? this.error(error.reason) : error;
  }

  /** Runs one value's reader; errors that have no position yet get the one reached. */
  positioned<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw this.fixed(error);
    }
  }

  isObject(byte: number): boolean {
    return byte === BYTE.openBrace;
  }

  isArray(byte: number): boolean {
    return byte === BYTE.openBracket;
  }

  isString(byte: number): boolean {
    return byte === BYTE.quote;
  }

  isNumber(byte: number): boolean {
    return byte === BYTE.minus || isDigit(byte);
  }

  /** Consumes `null` if it comes next. */
  takeNull(): boolean {
    if (this.peekToken() !== BYTE.n) return false;
    this.index += 1;
    this.#ident('ull');
    return true;
  }

  /** Consumes `true` or `false`; undefined when neither comes next. */
  takeBoolean(): boolean | undefined {
    const byte = this.expectToken();
    if (byte !== BYTE.t && byte !== BYTE.f) return undefined;
    this.index += 1;
    this.#ident(byte === BYTE.t ? 'rue' : 'alse');
    return byte === BYTE.t;
  }

  /** Consumes a string; the next token must be a quote. */
  string(): string {
    this.index += 1;
    return this.stringBody();
  }

  /** Consumes a number; the next token must be a digit or a minus. */
  number(): JsonNumber {
    const start = this.index;
    const negative = this.#bytes[this.index] === BYTE.minus;
    if (negative) this.index += 1;
    const first = this.#bytes[this.index];
    if (first === undefined) throw this.error('EOF while parsing a value');
    this.index += 1;
    if (!isDigit(first)) throw this.error('invalid number');
    if (first === BYTE.zero) {
      if (isDigit(this.#bytes[this.index])) throw this.peekError('invalid number');
    } else this.#digits();
    const next = this.#bytes[this.index];
    const float = next === BYTE.dot || isExponent(next);
    if (next === BYTE.dot) this.#fraction();
    if (isExponent(this.#bytes[this.index])) this.#exponent();
    const text = this.#bytes.toString('latin1', start, this.index);
    if (float) return this.#float(text);
    return integerOrFloat(BigInt(text), text) ?? this.#float(text);
  }

  #ident(rest: string): void {
    for (const expected of rest) {
      const byte = this.#bytes[this.index];
      if (byte === undefined) throw this.error('EOF while parsing a value');
      this.index += 1;
      if (byte !== expected.charCodeAt(0)) throw this.error('expected ident');
    }
  }

  /** The rest of a string after its opening quote. */
  protected stringBody(): string {
    const parts: Buffer[] = [];
    let start = this.index;
    for (;;) {
      const byte = this.#bytes[this.index];
      if (byte === undefined) throw this.error('EOF while parsing a string');
      if (byte === BYTE.quote || byte === BYTE.backslash) parts.push(this.#bytes.subarray(start, this.index));
      this.index += 1;
      if (byte === BYTE.quote) break;
      if (byte === BYTE.backslash) {
        parts.push(Buffer.from(this.#escape(), 'utf8'));
        start = this.index;
      } else if (byte < BYTE.space) {
        throw this.error('control character (\\u0000-\\u001F) found while parsing a string');
      }
    }
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(parts));
    } catch {
      throw this.error('invalid unicode code point');
    }
  }

  #escape(): string {
    const byte = this.#bytes[this.index];
    if (byte === undefined) throw this.error('EOF while parsing a string');
    this.index += 1;
    const letter = String.fromCharCode(byte);
    if (letter === 'u') return this.#unicodeEscape();
    const plain = ESCAPES[letter];
    if (plain === undefined) throw this.error('invalid escape');
    return plain;
  }

  #unicodeEscape(): string {
    const unit = this.#hex4();
    if (unit < 0xd800 || unit > 0xdfff) return String.fromCharCode(unit);
    if (unit >= 0xdc00) throw this.error('lone leading surrogate in hex escape');
    for (const expected of [BYTE.backslash, 0x75]) {
      if (this.#bytes[this.index] === undefined) throw this.error('EOF while parsing a string');
      if (this.#bytes[this.index] !== expected) throw this.peekError('unexpected end of hex escape');
      this.index += 1;
    }
    const low = this.#hex4();
    if (low < 0xdc00 || low > 0xdfff) throw this.error('lone leading surrogate in hex escape');
    return String.fromCharCode(unit, low);
  }

  #hex4(): number {
    if (this.index + 4 > this.#bytes.length) {
      this.index = this.#bytes.length;
      throw this.error('EOF while parsing a string');
    }
    const text = this.#bytes.toString('latin1', this.index, this.index + 4);
    this.index += 4;
    if (!/^[0-9a-fA-F]{4}$/.test(text)) throw this.error('invalid escape');
    return Number.parseInt(text, 16);
  }

  #digits(): void {
    while (isDigit(this.#bytes[this.index])) this.index += 1;
  }

  #fraction(): void {
    this.index += 1;
    const byte = this.#bytes[this.index];
    if (byte === undefined) throw this.peekError('EOF while parsing a value');
    if (!isDigit(byte)) throw this.peekError('invalid number');
    this.#digits();
  }

  #exponent(): void {
    this.index += 1;
    const sign = this.#bytes[this.index];
    if (sign === 0x2b || sign === BYTE.minus) this.index += 1;
    const byte = this.#bytes[this.index];
    if (byte === undefined) throw this.error('EOF while parsing a value');
    this.index += 1;
    if (!isDigit(byte)) throw this.error('invalid number');
    this.#digits();
  }

  #float(text: string): JsonNumber {
    const value = Number(text);
    if (!Number.isFinite(value)) throw this.error('number out of range');
    return { kind: 'float', value };
  }

  #positionOf(index: number): Position {
    let line = 1;
    let lineStart = 0;
    for (let at = this.#bytes.indexOf(BYTE.newline); at !== -1 && at < index; ) {
      line += 1;
      lineStart = at + 1;
      at = this.#bytes.indexOf(BYTE.newline, lineStart);
    }
    return { line, column: index - lineStart };
  }
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= BYTE.zero && byte <= BYTE.nine;
}

function isExponent(byte: number | undefined): boolean {
  return byte === 0x65 || byte === 0x45;
}

/** Integers beyond 64 bits, and `-0`, are floats to serde_json. */
function integerOrFloat(value: bigint, text: string): JsonNumber | undefined {
  if (text.startsWith('-')) return value < 0n && value >= -(2n ** 63n) ? { kind: 'signed', value } : undefined;
  return value < 2n ** 64n ? { kind: 'unsigned', value } : undefined;
}

/** How serde names a number it did not expect. */
export function describeNumber(number: JsonNumber): string {
  return number.kind === 'float' ? `floating point \`${floatText(number.value)}\`` : `integer \`${number.value}\``;
}

/** A string as Rust's `{:?}` prints it. */
export function debugText(text: string): string {
  const named: Record<string, string> = {
    '"': '\\"',
    '\\': '\\\\',
    '\n': '\\n',
    '\r': '\\r',
    '\t': '\\t',
    '\0': '\\0',
  };
  const body = text.replaceAll(
    // whatever Rust does not call printable
    /["\\\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu,
    (char) => named[char] ?? `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`,
  );
  return `"${body}"`;
}
