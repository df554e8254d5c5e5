/** A VMM that runs no guest: a process that is found by its arguments, and a socket that answers as Firecracker does. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { dirname, join } from 'node:path';
import { READY_LINE } from '../../src/core/boot-words.ts';
import { systemCode } from '../../src/errors.ts';

export interface FakeVmm {
  pid: number;
  /** as its API tells it */
  state: 'Not started' | 'Running' | 'Paused';
  /** takes questions and answers none */
  silent: boolean;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** The guest resets: the VMM ends in good order. */
  reset(): Promise<void>;
  /** Its process is killed. */
  die(): Promise<void>;
  /** Its socket's file is deleted; it lives on. */
  hide(): void;
  /** Such requests are refused from now on, after `first`. */
  refuse(request: string, first?: () => void): void;
}

export interface FakeVmmOptions {
  /** as banger starts a VMM, the program first */
  argv: readonly string[];
  /** called before a request changes anything; an error of it is no answer, unless it is that there is no room */
  onRequest?: (request: string) => void;
  /** hears of files that it has written */
  wrote?: (path: string) => void;
  /** what its guest prints once it runs; that it is ready by default */
  prints?: string;
}

/** A shell that waits for a line that never comes: it starts in a millisecond, and ends with this process. */
const WAIT = ['-c', 'read _'];

export async function startFakeVmm({
  argv,
  onRequest = () => {},
  wrote = () => {},
  prints = `${READY_LINE} 0.1\n`,
}: FakeVmmOptions): Promise<FakeVmm> {
  const [program = 'vmm', ...args] = argv;
  const argumentOf = (flag: string) => args[args.indexOf(flag) + 1] ?? '';
  const socketPath = argumentOf('--api-sock');
  const child = spawn('sh', [...WAIT, program, ...args], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  child.stdin.on('error', () => {});
  await once(child, 'spawn');
  const ended = endOf(child);
  const refusals = new Map<string, () => void>();
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk;
    });
    request.once('end', () => {
      if (vmm.silent) return;
      const what = `${request.method} ${request.url}`;
      const fault = (message: string) => {
        response.statusCode = 400;
        response.end(JSON.stringify({ fault_message: message }));
      };
      const refused = refusals.get(what);
      if (refused) {
        refused();
        fault('It is refused.');
        return;
      }
      try {
        if (request.method !== 'GET') onRequest(what);
      } catch (error) {
        if (systemCode(error) !== 'ENOSPC') {
          response.destroy();
          return;
        }
        // part of it was written
        for (const path of snapshotFiles(body)) writeFileSync(path, 'sav');
        fault('No space left on device (os error 28)');
        return;
      }
      if (what === 'PUT /vsock' || what === 'PUT /snapshot/load') {
        // a VMM that ends leaves the file of its socket, and none takes the place of another
        const vsock = join(dirname(argumentOf('--log-path')), 'v.sock');
        if (existsSync(vsock)) {
          fault('Address in use (os error 98)');
          return;
        }
        writeFileSync(vsock, '');
      }
      if (what === 'GET /') {
        response.end(JSON.stringify({ id: 'fake', state: vmm.state, vmm_version: '1', app_name: 'fake' }));
        return;
      }
      // a guest that hears Ctrl-Alt-Del goes down
      if (body.includes('SendCtrlAltDel')) response.once('close', () => void vmm.reset());
      else if (what === 'PUT /actions') {
        vmm.state = 'Running';
        // beside the VMM's own log: what its guest says when it is up
        appendFileSync(join(dirname(argumentOf('--log-path')), 'console.log'), prints);
      } else if (what === 'PATCH /vm') vmm.state = body.includes('Paused') ? 'Paused' : 'Running';
      else if (what === 'PUT /snapshot/create') {
        for (const path of snapshotFiles(body)) {
          writeFileSync(path, 'saved');
          wrote(path);
        }
      } else if (what === 'PUT /snapshot/load') {
        if (!snapshotFiles(body).every((path) => existsSync(path))) {
          fault('No such file or directory');
          return;
        }
        vmm.state = 'Paused';
      }
      response.writeHead(204).end();
    });
  });
  server.requestTimeout = server.headersTimeout = 0; // whoever watches it never asks
  server.listen(socketPath);
  await once(server, 'listening');
  child.once('exit', () => close(server, socketPath));

  const kill = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  const vmm: FakeVmm = {
    pid: child.pid ?? 0,
    state: 'Not started',
    silent: false,
    ended,
    async reset() {
      appendFileSync(argumentOf('--log-path'), 'Vmm is stopping. exit_code=0\n');
      child.stdin.end('\n');
      await ended;
    },
    die: kill,
    hide: () => rmSync(socketPath, { force: true }),
    refuse: (request, first = () => {}) => void refusals.set(request, first),
  };
  return vmm;
}

/** Files that a request to save or load memory names. */
function snapshotFiles(body: string): string[] {
  const { snapshot_path, mem_file_path, mem_backend } = JSON.parse(body);
  return [snapshot_path, mem_file_path ?? mem_backend.backend_path];
}

async function endOf(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  const [code, signal] = await once(child, 'exit');
  return { code, signal };
}

/** Nothing unlinks the socket of a VMM that ends, and Node's server does. */
function close(server: Server, socketPath: string): void {
  // whoever saw the process end may have removed it already
  const isThere = existsSync(socketPath);
  server.closeAllConnections();
  server.close();
  if (!isThere) return;
  try {
    writeFileSync(socketPath, '');
  } catch {
    // the directory is gone: the test is over
  }
}
