import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { sleep } from '../../src/system/abort.ts';
import { findProgram } from '../../src/system/host-facts.ts';
import { createPrivileged, createRights, SUDO_PATH } from '../../src/system/privilege.ts';
import { endProcess, findProcessesByArgument, identifyProcess, isAlive } from '../../src/system/processes.ts';
import { createRunner, QUIET_MS } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();

async function gathered(stream: PassThrough): Promise<Buffer> {
  return Buffer.concat(await stream.toArray());
}

describe('runner', () => {
  it('keeps stdout and stderr apart and passes input', async () => {
    const result = await runner.run(['sh', '-c', 'cat; echo oops >&2'], { input: 'hello' });
    assert.deepEqual([result.stdout, result.stderr], ['hello', 'oops\n']);
  });

  it('says which program is not installed', async () => {
    await assert.rejects(runner.run(['no-such-program-here']), {
      code: 'host_unprepared',
      message: 'The program `no-such-program-here` is not installed (looked in PATH).',
    });
  });

  it('turns a bad exit into the command line and the last line of stderr', async () => {
    await assert.rejects(runner.run(['sh', '-c', 'echo first >&2; echo last >&2; exit 3']), {
      code: 'command_failed',
      message: /ended with 3: last$/,
    });
    assert.equal((await runner.run(['sh', '-c', 'exit 3'], { okExits: [3] })).exitCode, 3);
  });

  it('ends what runs too long', async () => {
    await assert.rejects(runner.run(['sleep', '20'], { timeoutMs: 50 }), {
      code: 'timeout',
      message: /`sleep 20`.*0\.05 s/,
    });
  });

  it('ends what is no longer wanted', async () => {
    const stop = new AbortController();
    const running = runner.run(['sleep', '20'], { signal: stop.signal });
    setTimeout(() => stop.abort(), 20);
    await assert.rejects(running, { code: 'cancelled' });
  });

  it('gives output as bytes to a reader that is slow, and loses none of it', async () => {
    const output = new PassThrough({ highWaterMark: 1024 });
    const ran = runner.run(['sh', '-c', 'head -c 200000 /dev/zero; printf end'], { output });
    // longer than output without a reader of its own may be quiet after the program's end
    await sleep(QUIET_MS + 500);
    const bytes = gathered(output);
    assert.equal((await ran).stdout, '');
    output.end();
    const read = await bytes;
    assert.deepEqual([read.length, read.toString('latin1', 200_000)], [200_003, 'end']);
  });

  it('hands out lines as they come', async () => {
    const lines: string[] = [];
    await runner.run(['printf', 'a\\nb\\nc'], { onLine: (line) => lines.push(line) });
    assert.deepEqual(lines, ['a', 'b', 'c']);
  });

  it('starts detached programs in a session of their own', async () => {
    const started = await runner.startDetached(['sleep', '30'], { stdout: 'ignore', stderr: 'ignore' });
    const identity = await identifyProcess(started.pid);
    assert.ok(identity);
    const session = (await runner.run(['ps', '-o', 'sid=', '-p', String(started.pid)])).stdout.trim();
    assert.equal(Number(session), started.pid);
    assert.equal(await endProcess(identity, { graceMs: 1000 }), true);
    assert.deepEqual(await started.ended, { code: null, signal: 'SIGTERM' });
    assert.equal(await isAlive(identity), false);
  });
});

describe('processes', () => {
  it('are found by one exact argument', async (t) => {
    const marker = join(await tempDir(t), 'marker.sock');
    const started = await runner.startDetached(['tail', '--follow=name', '--retry', marker], {
      stdout: 'ignore',
      stderr: 'ignore',
    });
    const found = await findProcessesByArgument(marker);
    assert.deepEqual(
      found.map(({ pid }) => pid),
      [started.pid],
    );
    assert.deepEqual(await findProcessesByArgument(`${marker}x`), []);
    for (const identity of found) await endProcess(identity, { graceMs: 1000 });
  });

  it('that ignore SIGTERM are killed', async () => {
    const started = await runner.startDetached(['sh', '-c', 'trap "" TERM; while :; do sleep 0.05; done'], {
      stdout: 'ignore',
      stderr: 'ignore',
    });
    await sleep(50);
    const identity = await identifyProcess(started.pid);
    assert.ok(identity);
    assert.equal(await endProcess(identity, { graceMs: 100 }), true);
    assert.equal((await started.ended).signal, 'SIGKILL');
  });

  it('of another boot are never taken for living ones', async () => {
    const identity = await identifyProcess(process.pid);
    assert.ok(identity);
    assert.equal(await isAlive(identity), true);
    assert.equal(await isAlive({ ...identity, bootId: 'another' }), false);
    assert.equal(await isAlive({ ...identity, startTicks: identity.startTicks + 1 }), false);
  });
});

describe('privileged programs', () => {
  it('run directly as root and through sudo -n otherwise', async () => {
    const root = createPrivileged(runner, { uid: 0, sudo: 'auto', sudoProgram: 'sudo' });
    assert.deepEqual(await root.argv(['ip', 'link']), ['ip', 'link']);
    const user = createPrivileged(runner, { uid: 1000, sudo: 'auto', sudoProgram: '/usr/bin/sudo' });
    assert.deepEqual(await user.argv(['ip', 'link']), ['/usr/bin/sudo', '-n', '--', 'ip', 'link']);
    const never = createPrivileged(runner, { uid: 1000, sudo: 'never', sudoProgram: 'sudo' });
    await assert.rejects(never.argv(['ip', 'link']), {
      code: 'host_unprepared',
      message: /privilege\.sudo is "never"/,
    });
  });

  it('that need one right have no other, and are not root', async () => {
    const options = { uid: 1000, gid: 1001, sudo: 'auto' as const, sudoProgram: 'sudo', kvmGroup: async () => 108 };
    const { network, kvm, root } = createRights(runner, options);
    const [sudo, ...rest] = await network.argv(['sh', '-c', 'true']);
    assert.deepEqual(
      [sudo, ...rest].join(' '),
      'sudo -n -- setpriv --reuid=1000 --regid=1001 --clear-groups --inh-caps=-all,+net_admin ' +
        `--ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin --no-new-privs -- ${await shellOf()} -c true`,
    );
    assert.match(
      (await kvm.argv(['/opt/firecracker'])).join(' '),
      / --groups=108 --inh-caps=-all .* -- \/opt\/firecracker$/,
    );
    assert.deepEqual(await root.argv(['mount']), ['sudo', '-n', '--', 'mount']);
    const asRoot = createRights(runner, { ...options, uid: 0 });
    assert.deepEqual(await asRoot.network.argv(['ip', 'link']), ['ip', 'link']);
  });

  it('turn a refusal of sudo into the rules that help', async (t) => {
    const sudo = join(await tempDir(t), 'sudo');
    await writeFile(sudo, '#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n', { mode: 0o755 });
    const user = createPrivileged(runner, { uid: 1000, sudo: 'auto', sudoProgram: sudo });
    await assert.rejects(user.run(['nft', '-f', '-']), {
      code: 'host_unprepared',
      message: 'sudo does not let this user run `nft -f -`.',
      hint: /^Install the rules that this prints: banger doctor --sudoers$/,
    });
    // those of the store are printed as comments
    await assert.rejects(user.run(['/usr/bin/mount', '-t', 'xfs', 'a', 'b']), { hint: /without their "#"/ });
  });

  it('are not refused where sudo only warns and the program itself fails', async (t) => {
    const sudo = join(await tempDir(t), 'sudo');
    const lines = ['sudo: unable to resolve host here: Name or service not known', 'Cannot find device "x"'];
    await writeFile(sudo, `#!/bin/sh\n${lines.map((line) => `echo '${line}' >&2`).join('\n')}\nexit 1\n`, {
      mode: 0o755,
    });
    const user = createPrivileged(runner, { uid: 1000, sudo: 'auto', sudoProgram: sudo });
    await assert.rejects(user.run(['ip', 'link']), { code: 'command_failed', message: /Cannot find device "x"/ });
  });
});

/** The shell as sudo finds it. */
async function shellOf(): Promise<string> {
  const found = await findProgram('sh', { PATH: SUDO_PATH });
  return found.found ? found.path : 'sh';
}
