/** A private corner of this machine for host tests: own network, mounts, processes, and a copy of /etc. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const UNSHARE = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
const TIMEOUT_MS = 120_000;

/** Why there can be no such corner here; undefined when there can. */
export async function whyNoNamespace(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'needs root for network and mount namespaces';
  try {
    await run('unshare', [...UNSHARE, 'ip', 'link', 'set', 'lo', 'up'], { timeout: 10_000 });
    return undefined;
  } catch (error) {
    return `no namespaces here: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Runs one of the programs beside this file in there; what it printed. */
export async function runInNamespace(program: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const file = fileURLToPath(new URL(program, import.meta.url));
  const argv = [...UNSHARE, process.execPath, file, ...args];
  const { stdout } = await run('unshare', argv, {
    env: { ...process.env, ...env },
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  return stdout;
}

/** To be called in there first: loopback up, /run empty, /etc a copy that may be changed. */
export async function prepareNamespace(): Promise<void> {
  const commands = [
    ['ip', 'link', 'set', 'lo', 'up'],
    ['mount', '-t', 'tmpfs', 'tmpfs', '/run'],
    ['cp', '-a', '/etc', '/run/etc'],
    ['mount', '--bind', '/run/etc', '/etc'],
  ];
  for (const [command = '', ...args] of commands) await run(command, args);
}
