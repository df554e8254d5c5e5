/**
 * A program for a namespace of its own: BANGER. A host whose resolver is dnsmasq, and the command line and daemon of
 * a user: sets the resolver up and back, as root and as a user whom sudo refuses. Prints what it found as JSON.
 */
import { execFile, execFileSync } from 'node:child_process';
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { prepareNamespace } from './namespace.ts';

const [banger = ''] = process.argv.slice(2);
const NOBODY = 65_534;
const findings: Record<string, unknown> = {};

interface Said {
  status: number;
  stdout: string;
  stderr: string;
}

await prepareNamespace();
await writeFile('/etc/resolv.conf', 'nameserver 127.0.0.1\n');
await mkdir('/etc/dnsmasq.d', { recursive: true });
await mkdir('/run/bin');
const start =
  'dnsmasq -u root -x /run/dnsmasq.pid -7 /etc/dnsmasq.d,.dpkg-dist --listen-address=127.0.0.1 --bind-interfaces';
const stop = 'kill $(cat /run/dnsmasq.pid); while kill -0 $(cat /run/dnsmasq.pid) 2>/dev/null; do sleep 0.05; done';
// this namespace has no init; restarts are its business otherwise
await writeFile(
  '/run/bin/service',
  `#!/bin/sh\n[ "$*" = "dnsmasq restart" ] || exit 3\n${stop}\n${start} --no-resolv\n`,
  {
    mode: 0o755,
  },
);
execFileSync('sh', ['-c', `${start} --no-resolv`]);
// where every user may start it
await copyFile(banger, '/run/banger');

const root = as(0, '/run/b');
findings.dryRun = (await root('dns', 'setup', '--dry-run')).stdout;
findings.afterDryRun = await readdir('/etc/dnsmasq.d');
findings.brokenBefore = (await root('dns', 'status', '--explain', '_probe.vm')).stdout;
findings.setup = await root('dns', 'setup');
findings.afterSetup = await readdir('/etc/dnsmasq.d');
findings.lookup = await look('_probe.vm');
findings.again = (await root('dns', 'setup', '-q', '--json')).stdout;
findings.explained = await root('dns', 'status', '--explain', '_probe.vm');
findings.undo = await root('dns', 'setup', '--undo');
findings.lookupAfterUndo = await look('_probe.vm');
findings.secondUndo = await root('dns', 'setup', '--undo');
findings.afterUndo = await readdir('/etc/dnsmasq.d');
await root('daemon', 'stop');

await mkdir('/run/u');
execFileSync('chown', [String(NOBODY), '/run/u']);
const user = as(NOBODY, '/run/u');
findings.refused = await user('dns', 'setup');
findings.afterRefusal = await readdir('/etc/dnsmasq.d');
const { stdout: script } = await user('dns', 'setup', '--script');
execFileSync('sh', ['-c', script], { env: environment('/run/u'), stdio: 'ignore' });
findings.proof = await user('dns', 'setup');
await user('daemon', 'stop');
process.stdout.write(JSON.stringify(findings));
process.exit(0);

function environment(home: string): NodeJS.ProcessEnv {
  const rest = Object.entries(process.env).filter(([name]) => !name.startsWith('BANGER_'));
  return { ...Object.fromEntries(rest), HOME: home, BANGER_HOME: home, PATH: `/run/bin:${process.env.PATH}` };
}

/** Runs banger as a user with a home of its own, to whatever end. */
function as(uid: number, home: string): (...args: string[]) => Promise<Said> {
  return async (...args) => {
    const options = { uid, gid: uid, env: environment(home), cwd: '/' };
    const ran = promisify(execFile)('/run/banger', args, options);
    const failed = (error: { code?: number; stdout: string; stderr: string }) => ({ ...error, code: error.code ?? -1 });
    const { stdout, stderr, code } = await ran.then((said) => ({ ...said, code: 0 }), failed);
    return { status: code, stdout, stderr };
  };
}

/** What the C library finds. */
async function look(name: string): Promise<string> {
  const { stdout } = await promisify(execFile)('getent', ['hosts', name]).catch(() => ({ stdout: 'nothing' }));
  return stdout.trim().split(/\s+/)[0] ?? '';
}
