/** Commands in VMs over upgraded connections: HTTP until both sides agreed, frames of `api/exec-frames.ts` from then on. */
import type { Duplex } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { encodeFrame, FRAME } from '../api/exec-frames.ts';
import { toProblem } from '../api/problem.ts';
import { ExecRequest } from '../api/vm.ts';
import type { Host } from '../control/host.ts';
import { execInVm } from '../control/vm/exec.ts';
import type { Life } from '../control/vm/life.ts';
import { asBangerError, BangerError, messageOf } from '../errors.ts';
import { refusalOfBrowser } from './browsers.ts';

/** An exec request names a command; arguments are limited by the guest's kernel to 2 MiB. */
const MAX_EXEC_REQUEST_BYTES = 2 * 1024 * 1024;

/** A client says at once what to run; one that does not is none of ours. */
const EXEC_REQUEST_LIMIT_MS = 30_000;

/**
 * Exec needs a raw stream both ways, which is outside of fastify's request life.
 * @returns the connections that are open now
 */
export function acceptExec(server: FastifyInstance, host: Host, life: Pick<Life, 'resume'>): ReadonlySet<Duplex> {
  // upgraded connections are no longer the server's own: its close() would wait for them for ever
  const open = new Set<Duplex>();
  server.server.on('upgrade', (request, socket: Duplex, head: Buffer) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => {}); // a client that goes away; 'close' follows
    const refusal = refusalOfBrowser(request.headers);
    if (refusal) {
      refuseUpgrade(socket, refusal);
      return;
    }
    const name = vmOfExec(request.url ?? '');
    if (name === undefined || request.headers.upgrade !== 'banger-exec') {
      refuseUpgrade(socket, new BangerError('not_found', `Nothing to upgrade to at ${request.url}.`));
      return;
    }
    try {
      host.stores.vms.get(name);
    } catch (error) {
      refuseUpgrade(socket, asBangerError(error));
      return;
    }
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-exec\r\n\r\n');
    serveExec(host, life, name, socket, head).catch((error) => {
      host.log.warn({ vm: name, error: messageOf(error) }, 'exec failed');
      socket.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(asBangerError(error)))));
    });
  });
  return open;
}

/** The VM an exec request is for; undefined when the address is another one or cannot be decoded. */
function vmOfExec(url: string): string | undefined {
  const encoded = /^\/v1\/vms\/([^/?]+)\/exec$/.exec(url)?.[1];
  try {
    return encoded === undefined ? undefined : decodeURIComponent(encoded);
  } catch {
    return undefined;
  }
}

function refuseUpgrade(socket: Duplex, error: BangerError): void {
  const body = JSON.stringify(toProblem(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\nContent-Type: application/problem+json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/**
 * Serves an upgraded exec connection: the first line is the request as JSON, frames follow both ways.
 * @param head bytes that came with the upgrade request
 */
async function serveExec(
  host: Host,
  life: Pick<Life, 'resume'>,
  name: string,
  stream: Duplex,
  head: Buffer,
): Promise<void> {
  const { line, rest } = await readFirstLine(stream, head);
  if (rest.length > 0) stream.unshift(rest);
  const parsed = ExecRequest.safeParse(parseJson(line));
  if (parsed.success) {
    const vm = host.stores.vms.get(name);
    await host.checks.beforeLogin('exec');
    return await execInVm(host, life, vm, parsed.data, stream);
  }
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'request'}: ${issue.message}`);
  throw new BangerError('invalid_input', `The exec request is not valid: ${problems.join('; ')}.`);
}

/** The stream is paused when it returns; what came after the line is in `rest`. */
function readFirstLine(stream: Duplex, head: Buffer): Promise<{ line: string; rest: Buffer }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ line: string; rest: Buffer }>();
  let seen: Buffer = Buffer.alloc(0);
  const timer = setTimeout(
    () => reject(new BangerError('timeout', `No exec request came within ${EXEC_REQUEST_LIMIT_MS / 1000} s.`)),
    EXEC_REQUEST_LIMIT_MS,
  );
  const onData = (chunk: Buffer) => {
    seen = Buffer.concat([seen, chunk]);
    const end = seen.indexOf(0x0a);
    if (end < 0 && seen.length <= MAX_EXEC_REQUEST_BYTES) return;
    stream.off('data', onData);
    stream.pause();
    if (end < 0) reject(new BangerError('invalid_input', 'The exec request is too long.'));
    else resolve({ line: seen.subarray(0, end).toString('utf8'), rest: seen.subarray(end + 1) });
  };
  stream.once('close', () => reject(new BangerError('cancelled', 'The client left before it said what to run.')));
  stream.on('data', onData);
  if (head.length > 0) onData(head);
  return promise.finally(() => {
    clearTimeout(timer);
    stream.off('data', onData);
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
