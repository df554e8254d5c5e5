/** Handlers for VMs. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { ExecRequest } from '../../api/vm.ts';
import type { Host } from '../../control/host.ts';
import { createVm } from '../../control/vm/create.ts';
import { execInVm } from '../../control/vm/exec.ts';
import { writeKnownHosts } from '../../control/vm/known-hosts.ts';
import type { Life } from '../../control/vm/life.ts';
import { requireRunning } from '../../control/vm/problem.ts';
import { viewVm, viewVmDetail, viewVmNow } from '../../control/vm/view.ts';
import { BangerError } from '../../errors.ts';
import { followFile, lastLines, previousLog, stripControls } from '../../firecracker/console.ts';
import { GUEST_SSH_PORT, GUEST_USER } from '../../guest/ssh.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import type { Handlers } from '../server.ts';

type VmHandlers = Pick<
  Handlers,
  | 'listVms'
  | 'createVm'
  | 'showVm'
  | 'runVm'
  | 'startVm'
  | 'stopVm'
  | 'killVm'
  | 'restartVm'
  | 'rebaseVm'
  | 'deleteVm'
  | 'sshAccess'
  | 'logs'
  | 'exec'
>;

/** Lines of the console shown when nobody says how many. */
const DEFAULT_LOG_LINES = 1000;

export function vmHandlers(host: Host, life: Life): VmHandlers {
  const { operations, config } = host;
  const { vms } = host.stores;
  return {
    listVms: async () => await Promise.all(vms.list().map((vm) => viewVmNow(host, vm))),
    showVm: async ({ params }) => await viewVmDetail(host, vms.get(params.name)),
    createVm: async ({ body }) =>
      operations.start({
        kind: 'vm.create',
        target: body.name,
        run: async (progress, signal) => viewVm(host, await createVm(host, body, progress, signal)),
      }),
    runVm: async ({ params: { name }, body }) => life.run(name, body),
    startVm: async ({ params: { name }, body }) => life.start(name, body),
    stopVm: async ({ params: { name }, body }) => life.stop(name, body),
    killVm: async ({ params: { name } }) => await life.kill(name),
    restartVm: async ({ params: { name }, body }) => life.restart(name, body),
    rebaseVm: async ({ params: { name }, body }) => life.rebase(name, body),
    deleteVm: async ({ params: { name }, query: { force = false, now = false, keepWorkDisk = false } }) =>
      life.delete(name, { force, now, keepWorkDisk }),
    sshAccess: async ({ params: { name } }) => {
      const vm = vms.get(name);
      requireRunning(vm);
      await host.checks.beforeLogin('ssh');
      const { file, alias } = await writeKnownHosts(host, vm);
      return {
        user: GUEST_USER,
        address: vm.address,
        port: GUEST_SSH_PORT,
        identityFile: host.guests.keyFile,
        knownHostsFile: file,
        hostKeyAlias: alias,
      };
    },
    logs: async ({ params: { name }, query, reply, signal }) => {
      const { id } = vms.get(name);
      const files = vmFiles(config.paths.store, id);
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
        using gone = whenGone(host, id);
        for await (const chunk of followFile(path, position, AbortSignal.any([signal, gone.signal]))) {
          if (!raw.write(stripControls(chunk))) await once(raw, 'drain', { signal }).catch(() => {});
        }
      }
      raw.end();
    },
    exec: async () => {
      throw new BangerError('invalid_input', 'A command runs on an upgraded connection.', {
        hint: 'Send `Connection: Upgrade` and `Upgrade: banger-exec`, or use: banger exec NAME -- COMMAND',
      });
    },
  };
}

/** How often it is asked whether a VM whose log is followed still exists. */
const GONE_POLL_MS = 1000;

/** A signal for the deletion of a VM: nothing will ever be written to its log again. */
function whenGone(host: Host, vmId: string): { signal: AbortSignal } & Disposable {
  const gone = new AbortController();
  const timer = setInterval(() => {
    if (!host.stores.vms.findById(vmId)) gone.abort();
  }, GONE_POLL_MS);
  return { signal: gone.signal, [Symbol.dispose]: () => clearInterval(timer) };
}

/**
 * Serves an upgraded exec connection: the first line is the request as JSON, frames follow both ways.
 * @param head bytes that came with the upgrade request
 */
export async function serveExec(host: Host, name: string, stream: Duplex, head: Buffer): Promise<void> {
  const { line, rest } = await readFirstLine(stream, head);
  if (rest.length > 0) stream.unshift(rest);
  const parsed = ExecRequest.safeParse(parseJson(line));
  if (parsed.success) {
    const vm = host.stores.vms.get(name);
    await host.checks.beforeLogin('exec');
    return await execInVm(host, vm, parsed.data, stream);
  }
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'request'}: ${issue.message}`);
  throw new BangerError('invalid_input', `The exec request is not valid: ${problems.join('; ')}.`);
}

/** An exec request names a command; arguments are limited by the guest's kernel to 2 MiB. */
const MAX_EXEC_REQUEST_BYTES = 2 * 1024 * 1024;

/** A client says at once what to run; one that does not is none of ours. */
const EXEC_REQUEST_LIMIT_MS = 30_000;

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
