/**
 * An LZMA2 decoder (the one codec of .xz) and the x86 filter kernels are packed with.
 * After Lasse Collin's and Igor Pavlov's XZ Embedded (public domain), https://tukaani.org/xz/embedded.html
 */
import { BangerError } from '../../errors.ts';

const POS_STATES_MAX = 16;
const STATES = 12;
const LITERAL_STATES = 7;
const MATCH_MIN = 2;
const DIST_STATES = 4;
const DIST_MODEL_START = 4;
const DIST_MODEL_END = 14;
const ALIGN_BITS = 4;

/** Half of the 11-bit probability scale: "know nothing yet". */
const PROB_INIT = 1024;

/** Probabilities of one length coder: choice, choice2, low and mid per position state, high. */
const LEN_LOW = 2;
const LEN_MID = LEN_LOW + (POS_STATES_MAX << 3);
const LEN_HIGH = LEN_MID + (POS_STATES_MAX << 3);
const LEN_SIZE = LEN_HIGH + 256;

/** Where each group of probabilities lies in the one array that holds them all. */
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POS_STATES_MAX;
const IS_REP0 = IS_REP + STATES;
const IS_REP1 = IS_REP0 + STATES;
const IS_REP2 = IS_REP1 + STATES;
const IS_REP0_LONG = IS_REP2 + STATES;
const DIST_SLOT = IS_REP0_LONG + STATES * POS_STATES_MAX;
const DIST_SPECIAL = DIST_SLOT + DIST_STATES * 64;
const DIST_ALIGN = DIST_SPECIAL + 128 - DIST_MODEL_END;
const MATCH_LEN = DIST_ALIGN + 16;
const REP_LEN = MATCH_LEN + LEN_SIZE;
const LITERAL = REP_LEN + LEN_SIZE;
/** lc + lp is at most 4 in LZMA2. */
const PROBS = LITERAL + (0x300 << 4);

/** Decodes the chunks of one LZMA2 stream; the dictionary is a ring of the size the stream asks for. */
export class Lzma2Decoder {
  readonly #dict: Buffer;
  readonly #probs = new Uint16Array(PROBS);
  #dictPos = 0;
  /** bytes of the dictionary that hold data */
  #dictFull = 0;
  #total = 0;
  #input: Uint8Array = new Uint8Array();
  #pos = 0;
  #range = 0;
  #code = 0;
  #state = 0;
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;
  #lc = 0;
  #literalPosMask = 0;
  #posMask = 0;
  #needProps = true;
  #needDictReset = true;

  constructor(dictBytes: number) {
    this.#dict = Buffer.alloc(dictBytes);
  }

  /**
   * Decodes every chunk from `start` on, handing out each one's bytes.
   * @returns the position after the end marker
   * @throws BangerError `corrupt`
   */
  *decode(input: Uint8Array, start: number): Generator<Buffer, number> {
    this.#input = input;
    this.#pos = start;
    for (;;) {
      const control = this.#byte();
      if (control === 0) return this.#pos;
      if (control >= 0xe0 || control === 1) {
        this.#needDictReset = false;
        this.#dictFull = 0;
        if (control === 1) this.#needProps = true;
      }
      if (this.#needDictReset) throw corrupt('its first chunk needs a dictionary');
      if (control >= 0x80) yield this.#lzmaChunk(control);
      else if (control <= 2) yield this.#plainChunk();
      else throw corrupt('a chunk is of an unknown kind');
    }
  }

  #plainChunk(): Buffer {
    const size = ((this.#byte() << 8) | this.#byte()) + 1;
    if (this.#pos + size > this.#input.length) throw corrupt('it is cut short');
    const output = Buffer.from(this.#input.subarray(this.#pos, this.#pos + size));
    this.#pos += size;
    for (const byte of output) this.#put(byte);
    return output;
  }

  #lzmaChunk(control: number): Buffer {
    const size = (((control & 0x1f) << 16) | (this.#byte() << 8) | this.#byte()) + 1;
    const compressed = ((this.#byte() << 8) | this.#byte()) + 1;
    if (control >= 0xc0) this.#readProps(this.#byte());
    else if (this.#needProps) throw corrupt('a chunk lacks its properties');
    else if (control >= 0xa0) this.#resetState();
    const end = this.#pos + compressed;
    if (end > this.#input.length) throw corrupt('it is cut short');
    this.#startRange();
    const output = Buffer.allocUnsafe(size);
    this.#lzma(output);
    if (this.#range < 0x1000000) this.#normalize();
    if (this.#pos !== end || this.#code !== 0) throw corrupt('a chunk ends in the wrong place');
    return output;
  }

  #readProps(byte: number): void {
    if (byte > (4 * 5 + 4) * 9 + 8) throw corrupt('a chunk has impossible properties');
    const pb = Math.floor(byte / 45);
    const lp = Math.floor((byte % 45) / 9);
    const lc = byte % 9;
    if (lc + lp > 4) throw corrupt('a chunk has impossible properties');
    this.#posMask = (1 << pb) - 1;
    this.#literalPosMask = (1 << lp) - 1;
    this.#lc = lc;
    this.#needProps = false;
    this.#resetState();
  }

  #resetState(): void {
    this.#probs.fill(PROB_INIT);
    this.#state = 0;
    this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0;
  }

  #startRange(): void {
    this.#byte();
    this.#range = 0xffffffff;
    this.#code = ((this.#byte() << 24) | (this.#byte() << 16) | (this.#byte() << 8) | this.#byte()) >>> 0;
  }

  #lzma(output: Buffer): void {
    let at = 0;
    while (at < output.length) {
      const posState = this.#total & this.#posMask;
      if (this.#bit(IS_MATCH + this.#state * POS_STATES_MAX + posState) === 0) {
        const byte = this.#literal();
        output[at++] = byte;
        this.#put(byte);
        continue;
      }
      const length = this.#bit(IS_REP + this.#state) ? this.#repMatch(posState) : this.#match(posState);
      if (this.#rep0 >= this.#dictFull) throw corrupt('a match points before its start');
      if (at + length > output.length) throw corrupt('a match runs past its chunk');
      for (let left = length; left > 0; left--) {
        const byte = this.#back(this.#rep0);
        output[at++] = byte;
        this.#put(byte);
      }
    }
  }

  #literal(): number {
    const previous = this.#dictFull > 0 ? this.#back(0) : 0;
    const low = previous >> (8 - this.#lc);
    const high = (this.#total & this.#literalPosMask) << this.#lc;
    const base = LITERAL + 0x300 * (low + high);
    let symbol = 1;
    if (this.#state < LITERAL_STATES) {
      while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(base + symbol);
    } else {
      let matched = this.#back(this.#rep0) << 1;
      let offset = 0x100;
      while (symbol < 0x100) {
        const matchBit = matched & offset;
        matched <<= 1;
        if (this.#bit(base + offset + matchBit + symbol)) {
          symbol = (symbol << 1) | 1;
          offset &= matchBit;
        } else {
          symbol <<= 1;
          offset &= ~matchBit;
        }
      }
    }
    if (this.#state < 4) this.#state = 0;
    else this.#state -= this.#state < 10 ? 3 : 6;
    return symbol & 0xff;
  }

  #match(posState: number): number {
    this.#state = this.#state < LITERAL_STATES ? 7 : 10;
    this.#rep3 = this.#rep2;
    this.#rep2 = this.#rep1;
    this.#rep1 = this.#rep0;
    const length = this.#length(MATCH_LEN, posState);
    const distState = Math.min(length - MATCH_MIN, DIST_STATES - 1);
    const slot = this.#tree(DIST_SLOT + distState * 64, 6);
    if (slot < DIST_MODEL_START) {
      this.#rep0 = slot;
      return length;
    }
    const bits = (slot >> 1) - 1;
    const base = 2 | (slot & 1);
    if (slot < DIST_MODEL_END) {
      const start = base << bits;
      this.#rep0 = start + this.#reverseTree(DIST_SPECIAL + start - slot - 1, bits);
    } else {
      const direct = this.#direct(bits - ALIGN_BITS) + base * 2 ** (bits - ALIGN_BITS);
      this.#rep0 = direct * (1 << ALIGN_BITS) + this.#reverseTree(DIST_ALIGN, ALIGN_BITS);
    }
    return length;
  }

  #repMatch(posState: number): number {
    if (this.#bit(IS_REP0 + this.#state) === 0) {
      if (this.#bit(IS_REP0_LONG + this.#state * POS_STATES_MAX + posState) === 0) {
        this.#state = this.#state < LITERAL_STATES ? 9 : 11;
        return 1;
      }
    } else {
      let distance = this.#rep1;
      if (this.#bit(IS_REP1 + this.#state) !== 0) {
        distance = this.#rep2;
        if (this.#bit(IS_REP2 + this.#state) !== 0) {
          distance = this.#rep3;
          this.#rep3 = this.#rep2;
        }
        this.#rep2 = this.#rep1;
      }
      this.#rep1 = this.#rep0;
      this.#rep0 = distance;
    }
    this.#state = this.#state < LITERAL_STATES ? 8 : 11;
    return this.#length(REP_LEN, posState);
  }

  #length(base: number, posState: number): number {
    if (this.#bit(base) === 0) return MATCH_MIN + this.#tree(base + LEN_LOW + posState * 8, 3);
    if (this.#bit(base + 1) === 0) return MATCH_MIN + 8 + this.#tree(base + LEN_MID + posState * 8, 3);
    return MATCH_MIN + 16 + this.#tree(base + LEN_HIGH, 8);
  }

  #tree(base: number, bits: number): number {
    let symbol = 1;
    for (let left = bits; left > 0; left--) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(base: number, bits: number): number {
    let symbol = 1;
    let value = 0;
    for (let index = 0; index < bits; index++) {
      const bit = this.#bit(base + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << index;
    }
    return value;
  }

  #direct(bits: number): number {
    let value = 0;
    for (let left = bits; left > 0; left--) {
      if (this.#range < 0x1000000) this.#normalize();
      this.#range >>>= 1;
      const bit = this.#code >= this.#range ? 1 : 0;
      if (bit) this.#code -= this.#range;
      value = value * 2 + bit;
    }
    return value;
  }

  #bit(index: number): number {
    if (this.#range < 0x1000000) this.#normalize();
    const prob = this.#probs[index] ?? 0;
    const bound = (this.#range >>> 11) * prob;
    if (this.#code < bound) {
      this.#range = bound;
      this.#probs[index] = prob + ((2048 - prob) >> 5);
      return 0;
    }
    this.#range -= bound;
    this.#code -= bound;
    this.#probs[index] = prob - (prob >> 5);
    return 1;
  }

  #normalize(): void {
    this.#range = (this.#range << 8) >>> 0;
    this.#code = ((this.#code << 8) | this.#byte()) >>> 0;
  }

  #byte(): number {
    const byte = this.#input[this.#pos++];
    if (byte === undefined) throw corrupt('it is cut short');
    return byte;
  }

  #back(distance: number): number {
    const at = this.#dictPos - distance - 1;
    return this.#dict[at < 0 ? at + this.#dict.length : at] ?? 0;
  }

  #put(byte: number): void {
    this.#dict[this.#dictPos++] = byte;
    if (this.#dictPos === this.#dict.length) this.#dictPos = 0;
    if (this.#dictFull < this.#dict.length) this.#dictFull++;
    this.#total++;
  }
}

const ALLOWED_MASK = [true, true, true, false, true, false, false, false];
const MASK_BITS = [0, 1, 2, 2, 3, 3, 3, 3];

/** Undoes the x86 branch filter: absolute targets of calls and jumps become relative again. */
export class X86Filter {
  #previousMask = 0;
  #position = 0;
  #held: Buffer = Buffer.alloc(0);

  /** The next filtered bytes; up to four stay behind until more is known. */
  push(chunk: Buffer): Buffer {
    const data = this.#held.length > 0 ? Buffer.concat([this.#held, chunk]) : chunk;
    const done = this.#convert(data);
    this.#held = Buffer.from(data.subarray(done));
    this.#position = (this.#position + done) >>> 0;
    return data.subarray(0, done);
  }

  /** The last bytes, which are too few to hold a branch. */
  finish(): Buffer {
    return this.#held;
  }

  #convert(data: Buffer): number {
    if (data.length <= 4) return 0;
    const end = data.length - 4;
    let mask = this.#previousMask;
    let last = -1;
    let at = 0;
    for (; at < end; at++) {
      if (((data[at] ?? 0) & 0xfe) !== 0xe8) continue;
      const since = at - last;
      last = at;
      if (since > 3) {
        mask = 0;
      } else {
        mask = (mask << (since - 1)) & 7;
        if (mask !== 0 && (!ALLOWED_MASK[mask] || isSignByte(data[at + 4 - (MASK_BITS[mask] ?? 0)]))) {
          mask = (mask << 1) | 1;
          continue;
        }
      }
      if (!isSignByte(data[at + 4])) {
        mask = (mask << 1) | 1;
        continue;
      }
      data.writeUInt32LE(relativeTarget(data.readUInt32LE(at + 1), this.#position + at + 5, mask), at + 1);
      at += 4;
    }
    const since = at - last;
    this.#previousMask = since > 3 ? 0 : mask << (since - 1);
    return at;
  }
}

function relativeTarget(absolute: number, next: number, mask: number): number {
  let source = absolute;
  let target = (source - next) >>> 0;
  while (mask !== 0) {
    const shift = (MASK_BITS[mask] ?? 0) * 8;
    if (!isSignByte((target >>> (24 - shift)) & 0xff)) break;
    source = (target ^ (2 ** (32 - shift) - 1)) >>> 0;
    target = (source - next) >>> 0;
  }
  return (target & 0x01000000) === 0 ? target & 0x00ffffff : (target | 0xff000000) >>> 0;
}

function isSignByte(byte: number | undefined): boolean {
  return byte === 0 || byte === 0xff;
}

function corrupt(what: string): BangerError {
  return new BangerError('corrupt', `The LZMA2 data is damaged: ${what}.`);
}
