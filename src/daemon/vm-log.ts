/** The log of a VM as a streamed answer: its last lines and, followed, what is written until the VM is deleted. */
import { once } from 'node:events';
import type { FastifyReply } from 'fastify';
import type { Host } from '../control/host.ts';
import { followFile, lastLines, previousLog, stripControls } from '../firecracker/console.ts';
import { apparentBytes } from '../storage/disk.ts';
import { vmFiles } from '../storage/layout.ts';

/** Lines shown when nobody says how many. */
const DEFAULT_LOG_LINES = 1000;

/** How often it is asked whether a VM whose log is followed still exists. */
const GONE_POLL_MS = 1000;

export interface LogQuery {
  follow?: boolean | undefined;
  lines?: number | undefined;
  /** serial console by default */
  source?: 'console' | 'vmm' | undefined;
  /** the log of the run before */
  previous?: boolean | undefined;
}

export async function replyVmLog(
  host: Host,
  vmId: string,
  query: LogQuery,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<void> {
  const files = vmFiles(host.config.paths.store, vmId);
  const log = query.source === 'vmm' ? files.vmmLog : files.consoleLog;
  const path = query.previous ? previousLog(log) : log;
  const position = await apparentBytes(path).catch(() => 0);
  const lines = await lastLines(path, query.lines ?? DEFAULT_LOG_LINES);
  reply.hijack();
  const { raw } = reply;
  raw.on('error', () => {}); // a reader that left while a line was on its way; the signal says so
  raw.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8' });
  raw.flushHeaders();
  if (lines.length > 0) raw.write(`${lines.join('\n')}\n`);
  if (query.follow) {
    using gone = whenGone(host, vmId);
    for await (const chunk of followFile(path, position, AbortSignal.any([signal, gone.signal]))) {
      if (!raw.write(stripControls(chunk))) await once(raw, 'drain', { signal }).catch(() => {});
    }
  }
  raw.end();
}

/** A signal for the deletion of a VM: nothing will ever be written to its log again. */
function whenGone(host: Host, vmId: string): { signal: AbortSignal } & Disposable {
  const gone = new AbortController();
  const timer = setInterval(() => {
    if (!host.stores.vms.findById(vmId)) gone.abort();
  }, GONE_POLL_MS);
  return { signal: gone.signal, [Symbol.dispose]: () => clearInterval(timer) };
}
