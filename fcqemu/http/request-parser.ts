/**
 * HTTP requests as Firecracker's server (micro-http) reads them: request line and headers of at most 1024
 * bytes each, bodies by Content-Length only, and its own error texts.
 */
import { isUtf8 } from 'node:buffer';

export type Method = 'GET' | 'PUT' | 'PATCH' | 'DELETE';

export interface HttpRequest {
  method: Method;
  /** absolute path; empty when the target is no path */
  path: string;
  version: HttpVersion;
  /** absent without Content-Length */
  body: Buffer | undefined;
}

export type HttpVersion = 'HTTP/1.0' | 'HTTP/1.1';

/** Bytes that are no acceptable request; the connection lives on. */
export class TransportError extends Error {}

/** What the parser found: a request, or that the client waits for leave to send the body. */
export type ParserEvent = { kind: 'request'; request: HttpRequest } | { kind: 'continue'; version: HttpVersion };

const METHODS: readonly string[] = ['GET', 'PUT', 'PATCH', 'DELETE'];
const MAX_LINE_BYTES = 1024;
const CRLF = '\r\n';

/** Request line and headers. */
export interface Head {
  method: Method;
  path: string;
  version: HttpVersion;
  contentLength: number;
  expectsContinue: boolean;
  /** the client wants JSON; everything else asks for plain text */
  acceptsJson: boolean;
  /** headers without a meaning of their own here, as they were written */
  custom: [name: string, value: string][];
}

export class RequestParser {
  readonly #payloadLimit: number;
  #pending: Buffer = Buffer.alloc(0);
  /** request line and headers read so far */
  #head: Head | undefined;
  #headersDone = false;

  constructor(payloadLimit: number) {
    this.#payloadLimit = payloadLimit;
  }

  /**
   * Takes bytes from the wire and yields what they complete.
   * @throws TransportError after which everything received so far is forgotten
   */
  *push(bytes: Buffer): Generator<ParserEvent> {
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    try {
      for (;;) {
        const event = this.#step();
        if (event === 'incomplete') return;
        if (event !== 'progress') yield event;
      }
    } catch (error) {
      this.#reset();
      this.#pending = Buffer.alloc(0);
      throw error;
    }
  }

  #step(): ParserEvent | 'progress' | 'incomplete' {
    if (this.#head && this.#headersDone) return this.#readBody(this.#head);
    const line = this.#takeLine();
    if (line === undefined) return 'incomplete';
    if (!this.#head) {
      this.#head = parseRequestLine(line);
      return 'progress';
    }
    if (line.length > 0) {
      applyHeader(this.#head, line);
      return 'progress';
    }
    const { contentLength, expectsContinue, version } = this.#head;
    if (contentLength > this.#payloadLimit) {
      throw new TransportError(
        `Request payload with size ${contentLength} is larger than the limit of ${this.#payloadLimit} allowed by server.`,
      );
    }
    this.#headersDone = true;
    return contentLength > 0 && expectsContinue ? { kind: 'continue', version } : 'progress';
  }

  #readBody(head: Head): ParserEvent | 'incomplete' {
    if (this.#pending.length < head.contentLength) return 'incomplete';
    const { method, path, version, contentLength } = head;
    const body = contentLength > 0 ? Buffer.from(this.#pending.subarray(0, contentLength)) : undefined;
    this.#pending = this.#pending.subarray(contentLength);
    this.#reset();
    return { kind: 'request', request: { method, path, version, body } };
  }

  #takeLine(): Buffer | undefined {
    const end = this.#pending.indexOf(CRLF);
    if (end > MAX_LINE_BYTES - CRLF.length || (end === -1 && this.#pending.length >= MAX_LINE_BYTES)) {
      if (!this.#head) throw new TransportError('Invalid request.');
      const shown = this.#pending.toString('utf8', 0, MAX_LINE_BYTES);
      throw new TransportError(`Invalid header. Reason: Invalid content length. Header: ${shown}`);
    }
    if (end === -1) return undefined;
    const line = this.#pending.subarray(0, end);
    this.#pending = this.#pending.subarray(end + CRLF.length);
    return line;
  }

  #reset(): void {
    this.#head = undefined;
    this.#headersDone = false;
  }
}

/** @throws TransportError */
export function parseRequestLine(line: Buffer): Head {
  const [method, target, ...rest] = line.toString('latin1').split(' ');
  const version = rest.join(' ');
  if (method === undefined || target === undefined || rest.length === 0) throw new TransportError('Invalid request.');
  if (!isMethod(method)) throw new TransportError('Invalid HTTP Method: Unsupported HTTP method.');
  if (target === '') throw new TransportError('Invalid URI: Empty URI not allowed.');
  if (version !== 'HTTP/1.0' && version !== 'HTTP/1.1') {
    throw new TransportError('Invalid HTTP Version: Unsupported HTTP version.');
  }
  const path = absolutePath(target);
  return { method, path, version, contentLength: 0, expectsContinue: false, acceptsJson: false, custom: [] };
}

function isMethod(text: string): text is Method {
  return METHODS.includes(text);
}

/** The path of `/a/b` or `http://host/a/b`; empty for anything else. */
function absolutePath(target: string): string {
  const text = Buffer.from(target, 'latin1').toString('utf8');
  if (text.includes('\ufffd')) throw new TransportError('Invalid URI: Cannot parse URI as UTF-8.');
  if (text.startsWith('/')) return text;
  return /^http:\/\/[^/]*(\/.*)?$/su.exec(text)?.[1] ?? '';
}

/** Keeps what a header says about the body; values nobody knows are ignored. @throws TransportError */
export function applyHeader(head: Head, line: Buffer): void {
  const invalid = utf8Problem(line);
  if (invalid !== undefined) {
    throw new TransportError(`Invalid header. Reason: Header contains invalid characters. Key: ${invalid}`);
  }
  const text = line.toString('utf8');
  const colon = text.indexOf(':');
  if (colon === -1) {
    throw new TransportError(`Invalid header. Reason: Header is incorrectly formatted. Key: ${text}`);
  }
  const key = text.slice(0, colon);
  const raw = text.slice(colon + 1);
  const value = raw.trim();
  switch (key.trim().toLowerCase()) {
    case 'content-length':
      if (!/^\+?\d+$/.test(value) || Number(value) > 0xffff_ffff) throw invalidValue(key, raw);
      head.contentLength = Number(value);
      break;
    case 'expect':
      head.expectsContinue ||= value === '100-continue';
      break;
    case 'accept-encoding':
      checkAcceptEncoding(value);
      break;
    case 'accept':
      head.acceptsJson = value === 'application/json' || (head.acceptsJson && value !== 'text/plain');
      break;
    case 'content-type':
    case 'server':
    case 'transfer-encoding':
      break;
    default:
      head.custom.push([key.trim(), value]);
  }
}

/** What Rust says of bytes that are no UTF-8; undefined when they are. */
function utf8Problem(bytes: Buffer): string | undefined {
  if (isUtf8(bytes)) return undefined;
  let index = bytes.length;
  while (!isUtf8(bytes.subarray(0, index))) index -= 1;
  const rest = bytes.subarray(index);
  // the beginning of a character is replaced as a whole
  const length = [3, 2, 1].find((count) => rest.length >= count && rest.toString('utf8', 0, count) === '\ufffd') ?? 1;
  const first = rest[0] ?? 0;
  const isBegun = length === rest.length && first >= 0xc2 && first <= 0xf4;
  return isBegun
    ? `incomplete utf-8 byte sequence from index ${index}`
    : `invalid utf-8 sequence of ${length} bytes from index ${index}`;
}

function checkAcceptEncoding(value: string): void {
  if (value === '') throw new TransportError('Invalid request.');
  for (const encoding of value.split(',')) {
    const refused = encoding.trim();
    if (refused === 'identity;q=0' || (refused === '*;q=0' && !value.includes('identity'))) {
      throw invalidValue('Accept-Encoding', encoding);
    }
  }
}

function invalidValue(key: string, value: string): TransportError {
  return new TransportError(`Invalid header. Reason: Invalid value. Key:${key}; Value:${value}`);
}
