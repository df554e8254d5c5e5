/**
 * Reads a tar archive as it comes: ustar, PAX (POSIX.1-2001), and what GNU tar and star add: long names, sparse files, numbers
 * in base 256, extended attributes. Nothing is written anywhere. What is wrong with an archive ends it.
 * Formats: pax(1) of POSIX, tar(5) of libarchive, "Basic Tar Format" of the GNU tar manual.
 */
import type { DataPiece, FileKind } from '../core/file-tree.ts';
import { BangerError } from '../errors.ts';
import {
  isZeros,
  parseOldSparse,
  parsePax,
  readNumber,
  SparseText,
  shownPath,
  sparsePieces,
  textOf,
  XATTR_PREFIX,
} from './tar-header.ts';

export interface TarEntry {
  /** number in the archive, from 0; what only describes others is not counted */
  index: number;
  kind: FileKind | 'hardlink';
  /** as it stands there, a character for each byte */
  path: string;
  /** of links of both kinds */
  target: string;
  mode: number;
  uid: number;
  gid: number;
  /** seconds since 1970 */
  mtime: number;
  /** of the file, holes included, in `bytes` */
  size: number;
  /** of a file with holes */
  pieces?: DataPiece[];
  device?: { major: number; minor: number };
  /** entries that have theirs from a header for all of them have the same map */
  xattrs?: Map<string, Buffer>;
}

export interface TarHandler {
  entry(entry: TarEntry): void;
  /** The data of the entry that came last, without its holes; chunks are not kept. */
  data(chunk: Buffer): Promise<void> | undefined;
  /** All data of the entry that came last has been given. */
  end(): Promise<void> | undefined;
}

export interface TarLimits {
  /** bytes of the archive, without compression */
  bytes: number;
}

const BLOCK = 512;
/** Of all headers that describe one entry: names and attributes. What most images are made with (Go, archive/tar) reads no longer one. */
const MAX_DESCRIPTION_BYTES = 1024 * 1024;
/** Of the map of a sparse file. */
const MAX_MAP_BYTES = 4 * 1024 * 1024;
/** What is said of all entries is looked at for each of them. */
const MAX_GLOBAL_BYTES = 64 * 1024;
/** Names and values of one entry's attributes: Linux lists no more, and has no longer value. */
const MAX_ATTRIBUTE_BYTES = 64 * 1024;
const MAX_PATH_BYTES = 4096;

const KINDS: Readonly<Record<string, FileKind | 'hardlink'>> = {
  ...{ '0': 'file', '\0': 'file', '7': 'file', S: 'file', '1': 'hardlink', '2': 'link' },
  ...{ '3': 'char', '4': 'block', '5': 'directory', '6': 'fifo' },
};

/** What the bytes that come next are. */
type State = 'header' | 'old-sparse' | 'description' | 'sparse-map' | 'data' | 'padding';

/** Pushed through with `write`, and told by `finish` that no more comes. */
export class TarReader {
  readonly #handler: TarHandler;
  readonly #limits: TarLimits;
  #state: State = 'header';
  #header = Buffer.alloc(BLOCK);
  #filled = 0;
  /** bytes left of the data or description, and of the padding behind it */
  #left = 0;
  #padding = 0;
  #described: Buffer[] = [];
  #descriptionType = '';
  readonly #global = new Map<string, string>();
  #globalXattrs: Map<string, Buffer> | undefined;
  #local = new Map<string, string>();
  /** of the descriptions of the next entry */
  #localBytes = 0;
  #entry: TarEntry | undefined;
  #oldSparse: Buffer[] = [];
  #map = new SparseText();
  #zeroBlocks = 0;
  #count = 0;
  #bytes = 0;
  #ended = false;

  constructor(handler: TarHandler, limits: TarLimits) {
    this.#handler = handler;
    this.#limits = limits;
  }

  get entries(): number {
    return this.#count;
  }

  /** @throws BangerError `corrupt` for an archive that is none, or one beyond the limits */
  async write(chunk: Buffer): Promise<void> {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#limits.bytes) {
      throw new BangerError('host_unprepared', 'There is no room for what the layers hold without their compression.', {
        hint: 'Free some space, or set paths.store to a larger disk.',
      });
    }
    let at = 0;
    while (at < chunk.length) {
      // what follows the end of an archive is nobody's
      if (this.#ended) return;
      const room = this.#state === 'header' || this.#state === 'old-sparse' || this.#state === 'sparse-map';
      if (room) {
        const take = Math.min(BLOCK - this.#filled, chunk.length - at);
        chunk.copy(this.#header, this.#filled, at, at + take);
        this.#filled += take;
        at += take;
        if (this.#filled < BLOCK) return;
        this.#filled = 0;
        const pending = this.#block();
        if (pending) await pending;
        continue;
      }
      const all = this.#state === 'padding' ? this.#padding : this.#left;
      const take = Math.min(all, chunk.length - at);
      const piece = chunk.subarray(at, at + take);
      at += take;
      if (this.#state === 'padding') {
        this.#padding -= take;
        if (this.#padding === 0) this.#state = 'header';
        continue;
      }
      this.#left -= take;
      if (this.#state === 'description') this.#described.push(Buffer.from(piece));
      else {
        const pending = this.#handler.data(piece);
        if (pending) await pending;
      }
      if (this.#left > 0) continue;
      if (this.#state === 'description') this.#endDescription();
      else {
        const pending = this.#handler.end();
        if (pending) await pending;
      }
      this.#state = this.#padding > 0 ? 'padding' : 'header';
    }
  }

  /** @throws BangerError `corrupt` when the archive has not come to its end */
  finish(): void {
    if (this.#ended || (this.#state === 'header' && this.#filled === 0 && this.#localBytes === 0)) return;
    throw wrong('it is cut short');
  }

  #block(): Promise<void> | undefined {
    if (this.#state === 'old-sparse') return this.#moreOldSparse();
    if (this.#state === 'sparse-map') return this.#moreSparseMap();
    if (isZeros(this.#header)) {
      this.#zeroBlocks += 1;
      if (this.#zeroBlocks === 2) this.#ended = true;
      return undefined;
    }
    this.#zeroBlocks = 0;
    return this.#readHeader();
  }

  #readHeader(): Promise<void> | undefined {
    const block = this.#header;
    requireChecksum(block);
    const type = String.fromCharCode(block.readUInt8(156));
    const isDescription = 'xgXLK'.includes(type);
    const size = readNumber(block, 124, 12);
    if (isDescription) {
      this.#localBytes += size;
      if (this.#localBytes > MAX_DESCRIPTION_BYTES) {
        throw wrong(`a description of ${this.#localBytes} bytes is longer than any`);
      }
      this.#begin('description', size);
      this.#descriptionType = type;
      this.#described = [];
      if (size === 0) this.#endDescription();
      return undefined;
    }
    const kind = KINDS[type];
    if (kind === undefined) {
      // what is not known is passed over, as GNU tar does with volume labels and the like
      this.#forgetDescriptions();
      this.#entry = undefined;
      this.#begin('data', size);
      this.#left = size;
      if (size > 0) this.#skip(size);
      return undefined;
    }
    this.#count += 1;
    const pax = this.#local;
    const get = (key: string) => pax.get(key) ?? this.#global.get(key);
    const entry = this.#describe(block, kind, get);
    const stored = kind === 'file' ? numberOf(get('size'), size) : 0;
    entry.size = stored;
    this.#entry = entry;
    if (kind === 'file' && type === 'S') {
      entry.size = readNumber(block, 483, 12);
      this.#oldSparse = [block.subarray(386, 386 + 96)].map((part) => Buffer.from(part));
      this.#left = stored;
      if (block.readUInt8(482) !== 0) {
        this.#state = 'old-sparse';
        return undefined;
      }
      return this.#beginOldSparse();
    }
    if (kind === 'file' && get('GNU.sparse.major') === '1') {
      entry.size = numberOf(get('GNU.sparse.realsize'), stored);
      this.#map = new SparseText();
      this.#left = stored;
      this.#state = 'sparse-map';
      return undefined;
    }
    if (kind === 'file' && get('GNU.sparse.map') !== undefined) {
      entry.size = numberOf(get('GNU.sparse.size') ?? get('GNU.sparse.realsize'), stored);
      entry.pieces = sparsePieces((get('GNU.sparse.map') ?? '').split(',').map(Number), entry.size, stored);
    }
    return this.#beginData(stored);
  }

  #describe(block: Buffer, kind: TarEntry['kind'], get: (key: string) => string | undefined): TarEntry {
    const isUstar = textOf(block, 257, 5) === 'ustar';
    const isPosix = isUstar && block.readUInt8(262) === 0;
    const prefix = isPosix ? textOf(block, 345, 155) : '';
    const name = textOf(block, 0, 100);
    const path = get('GNU.sparse.name') ?? get('path') ?? (prefix === '' ? name : `${prefix}/${name}`);
    const target = get('linkpath') ?? textOf(block, 157, 100);
    for (const text of [path, target]) {
      if (text.length > MAX_PATH_BYTES) throw wrong(`a path of ${text.length} bytes is longer than any`);
      if (text.includes('\0')) throw wrong('a path has a zero byte in it');
    }
    // of ancient archives: directories are files whose name ends with a slash
    const isOldDirectory = kind === 'file' && path.endsWith('/');
    const entry: TarEntry = {
      index: this.#count - 1,
      kind: isOldDirectory ? 'directory' : kind,
      ...{ path, target },
      mode: readNumber(block, 100, 8) & 0o7777,
      uid: idOf(get('uid'), readNumber(block, 108, 8)),
      gid: idOf(get('gid'), readNumber(block, 116, 8)),
      mtime: timeOf(get('mtime'), readNumber(block, 136, 12)),
      size: 0,
    };
    if (kind === 'char' || kind === 'block') {
      entry.device = { major: readNumber(block, 329, 8), minor: readNumber(block, 337, 8) };
    }
    const xattrs = this.#attributes(path);
    if (xattrs) entry.xattrs = xattrs;
    return entry;
  }

  #attributes(path: string): Map<string, Buffer> | undefined {
    const own = attributesIn(this.#local);
    if (own === undefined) return this.#globalXattrs;
    const xattrs = this.#globalXattrs ? new Map([...this.#globalXattrs, ...own]) : own;
    let bytes = 0;
    for (const [name, value] of xattrs) bytes += name.length + value.length;
    if (bytes <= MAX_ATTRIBUTE_BYTES) return xattrs;
    throw new BangerError(
      'corrupt',
      `The entry ${shownPath(path)} has ${bytes} bytes of extended attributes, more than ${MAX_ATTRIBUTE_BYTES}, the most a file can have.`,
      { hint: 'Take them away where the image is made, and push it again: setfattr --remove=NAME FILE' },
    );
  }

  #endDescription(): void {
    const body = Buffer.concat(this.#described);
    this.#described = [];
    if (this.#descriptionType === 'L') this.#local.set('path', textOf(body, 0, body.length));
    else if (this.#descriptionType === 'K') this.#local.set('linkpath', textOf(body, 0, body.length));
    else if (this.#descriptionType === 'g') this.#describeAll(body);
    else parsePax(body, this.#local);
  }

  /** From here on it goes for all entries that say nothing else. */
  #describeAll(body: Buffer): void {
    parsePax(body, this.#global);
    let bytes = 0;
    for (const [key, value] of this.#global) {
      // of one file alone; read again for each entry, a long one would take hours
      if (key.startsWith('GNU.sparse.')) throw wrong('a map of a sparse file is said to be that of all');
      bytes += key.length + value.length;
    }
    if (bytes > MAX_GLOBAL_BYTES) {
      throw wrong(`what it says of all entries has ${bytes} bytes, more than ${MAX_GLOBAL_BYTES}`);
    }
    this.#globalXattrs = attributesIn(this.#global);
    // they belong to no entry
    this.#localBytes -= body.length;
  }

  #forgetDescriptions(): void {
    this.#local = new Map();
    this.#localBytes = 0;
  }

  #moreOldSparse(): Promise<void> | undefined {
    if (this.#oldSparse.length * BLOCK > MAX_MAP_BYTES) throw wrong('a map of a sparse file is longer than any');
    this.#oldSparse.push(Buffer.from(this.#header.subarray(0, 504)));
    if (this.#header.readUInt8(504) !== 0) return undefined;
    return this.#beginOldSparse();
  }

  #beginOldSparse(): Promise<void> | undefined {
    const entry = this.#entry as TarEntry;
    entry.pieces = sparsePieces(parseOldSparse(this.#oldSparse), entry.size, this.#left);
    return this.#beginData(this.#left);
  }

  /** The map of format 1.0 is text in front of the data, padded to whole blocks. */
  #moreSparseMap(): Promise<void> | undefined {
    const numbers = this.#map.push(this.#header);
    this.#left -= BLOCK;
    if (this.#map.length > MAX_MAP_BYTES || this.#left < 0) {
      throw wrong('a map of a sparse file contradicts itself');
    }
    if (!numbers) return undefined;
    const entry = this.#entry as TarEntry;
    entry.pieces = sparsePieces(numbers, entry.size, this.#left);
    return this.#beginData(this.#left);
  }

  #beginData(stored: number): Promise<void> | undefined {
    const entry = this.#entry as TarEntry;
    this.#forgetDescriptions();
    this.#begin('data', stored);
    this.#handler.entry(entry);
    return stored === 0 ? this.#handler.end() : undefined;
  }

  #begin(state: 'data' | 'description', size: number): void {
    this.#left = size;
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK;
    this.#state = size > 0 ? state : 'header';
  }

  #skip(size: number): void {
    this.#padding += size;
    this.#left = 0;
    this.#state = 'padding';
  }
}

/** Undefined when there are none. */
function attributesIn(records: ReadonlyMap<string, string>): Map<string, Buffer> | undefined {
  const xattrs = new Map<string, Buffer>();
  for (const [key, value] of records) {
    const attribute = key.startsWith(XATTR_PREFIX) ? key.slice(XATTR_PREFIX.length) : '';
    if (attribute !== '') xattrs.set(attribute, Buffer.from(value, 'latin1'));
  }
  return xattrs.size > 0 ? xattrs : undefined;
}

/** Unsigned as POSIX has it, signed as some programs of before wrote it. */
function requireChecksum(block: Buffer): void {
  const wanted = readNumber(block, 148, 8);
  let sum = 0;
  let signed = 0;
  for (let at = 0; at < BLOCK; at++) {
    const byte = at >= 148 && at < 156 ? 0x20 : block.readUInt8(at);
    sum += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  if (sum !== wanted && signed !== wanted) throw wrong('a header has a wrong checksum');
}

function numberOf(text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value)) throw wrong(`"${text.slice(0, 40)}" is no size`);
  return value;
}

/** The kernel's largest, 4294967295, stands for nobody. */
function idOf(text: string | undefined, otherwise: number): number {
  const id = numberOf(text, otherwise);
  if (id < 0 || id >= 2 ** 32 - 1) throw wrong(`${id} is no user or group`);
  return id;
}

function timeOf(text: string | undefined, otherwise: number): number {
  const time = text === undefined ? otherwise : Number(text);
  if (!Number.isFinite(time)) return 0;
  return Math.min(Math.max(time, -(2 ** 31)), 2 ** 34 - 2 ** 31 - 1);
}

function wrong(why: string): BangerError {
  return new BangerError('corrupt', `The archive cannot be read: ${why}.`);
}
