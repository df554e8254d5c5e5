import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { createBeginReader, sessionCommand, shellCommand, signalSession } from '../../src/guest/command.ts';
import { ensureClientKey, fingerprint, generateKeyPair, knownHosts } from '../../src/guest/keys.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();

describe('shellCommand', () => {
  it('hands every argument to a shell unchanged', async () => {
    const word = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((text) => !text.includes('\0'));
    await fc.assert(
      fc.asyncProperty(fc.array(word, { minLength: 1, maxLength: 5 }), async (words) => {
        const line = shellCommand({ argv: ['printf', '%s\\0', ...words] });
        const { stdout } = await runner.run(['sh', '-c', line]);
        assert.deepEqual(stdout.split('\0').slice(0, -1), words);
      }),
      { numRuns: 40 },
    );
  });

  it('sets environment and directory', async (t) => {
    const dir = await tempDir(t);
    const line = shellCommand({
      argv: ['sh', '-c', 'echo "$GREETING from $PWD"'],
      env: { GREETING: "it's me" },
      cwd: dir,
    });
    assert.equal((await runner.run(['sh', '-c', line])).stdout, `it's me from ${dir}\n`);
  });
});

describe('a command with a session of its own', () => {
  it('says its process id first, and everything else is output', async () => {
    const line = sessionCommand({ argv: ['sh', '-c', 'echo $$; printf %s "$A"'], env: { A: "it's" } }, 'token', false);
    const { stdout } = await runner.run(['sh', '-c', `echo hello from a start-up file; ${line}`]);
    for (const size of [1, 3, 1000]) {
      const begin = createBeginReader('token');
      const output: Buffer[] = [];
      for (let at = 0; at < stdout.length; at += size)
        output.push(begin.push(Buffer.from(stdout.slice(at, at + size))));
      assert.equal(
        Buffer.concat([...output, begin.end()]).toString(),
        `hello from a start-up file\n${begin.pid}\nit's`,
      );
    }
  });

  it('that never begins leaves all that was said', () => {
    const begin = createBeginReader('token');
    const said = Buffer.concat(
      ['This account is ', 'closed.\x1ebanger-exec'].map((text) => begin.push(Buffer.from(text))),
    );
    assert.equal(Buffer.concat([said, begin.end()]).toString(), 'This account is closed.\x1ebanger-exec');
    assert.equal(begin.pid, undefined);
  });

  it('takes a terminal that is known where the client has another one', async () => {
    const line = sessionCommand({ argv: ['sh', '-c', 'echo $TERM'] }, 'token', true);
    for (const [given, taken] of [
      ['no-such-terminal', 'xterm-256color'],
      ['../../../etc/passwd', 'xterm-256color'],
      ['vt100', 'vt100'],
    ]) {
      const { stdout } = await runner.run(['sh', '-c', line], { env: { ...process.env, TERM: given } });
      assert.equal(createBeginReader('token').push(Buffer.from(stdout)).toString(), `${taken}\n`);
    }
  });

  it('is signalled with all it started, whatever environment, user or session that has', async () => {
    const script = 'env -i sleep 777 & setsid -w env -i sleep 778 & echo ready; wait';
    const line = sessionCommand({ argv: ['sh', '-c', script] }, 'token', false);
    const child = spawn('sh', ['-c', line], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
    const begin = createBeginReader('token');
    let said = '';
    for await (const chunk of child.stdout) {
      said += begin.push(chunk).toString();
      if (said.includes('ready')) break;
    }
    assert.equal(begin.pid, child.pid);
    const processes = async () => (await runner.run(['ps', '-eo', 'stat=,args='])).stdout.replaceAll(/^Z.*$/gm, '');
    const bystander = spawn('sleep', ['779'], { detached: true, stdio: 'ignore' });
    try {
      const ended = once(child, 'exit');
      await runner.run(['sh', '-c', signalSession(begin.pid ?? 0, 'TERM')]);
      await ended;
      // a signal is sent at once, and a process ends when it next runs
      while (/sleep 77[78]$/m.test(await processes())) await sleep(10);
      assert.match(await processes(), /sleep 779$/m);
    } finally {
      bystander.kill('SIGKILL');
    }
  });
});

describe('keys', () => {
  it('are read by OpenSSH, with the fingerprint we compute', async (t) => {
    const path = join(await tempDir(t), 'ssh', 'id_ed25519');
    const pair = await ensureClientKey(path);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    const derived = await runner.run(['ssh-keygen', '-y', '-f', path]);
    assert.deepEqual(derived.stdout.trim().split(' ').slice(0, 2), pair.publicKey.split(' ').slice(0, 2));
    assert.match(
      (await runner.run(['ssh-keygen', '-lf', `${path}.pub`])).stdout,
      new RegExp(fingerprint(pair.publicKey).replaceAll('+', '\\+')),
    );
  });

  it('are whole every time', async () => {
    // ssh2 makes one in 256 too short: among 1500 some are almost certain
    for (let made = 0; made < 1500; made++) {
      const { publicKey } = await generateKeyPair('web');
      assert.equal(Buffer.from(publicKey.split(' ')[1] ?? '', 'base64').length, 51, publicKey);
    }
  });

  it('are made once', async (t) => {
    const path = join(await tempDir(t), 'id_ed25519');
    assert.deepEqual(await ensureClientKey(path), await ensureClientKey(path));
  });

  it('keep the private half when the public one is lost, and say so when the private one is damaged', async (t) => {
    const path = join(await tempDir(t), 'id_ed25519');
    const pair = await ensureClientKey(path);
    await rm(`${path}.pub`);
    const again = await ensureClientKey(path);
    assert.equal(again.privateKey, pair.privateKey);
    assert.deepEqual(again.publicKey.split(' ').slice(0, 2), pair.publicKey.split(' ').slice(0, 2));
    assert.deepEqual(await ensureClientKey(path), again);
    await rm(`${path}.pub`);
    await writeFile(path, 'no key');
    await assert.rejects(ensureClientKey(path), { code: 'corrupt', message: /id_ed25519 is no OpenSSH private key/ });
  });

  it('make known_hosts lines that OpenSSH finds by alias', async (t) => {
    const file = join(await tempDir(t), 'known_hosts');
    const { publicKey } = await generateKeyPair('web');
    await (await import('node:fs/promises')).writeFile(
      file,
      knownHosts([{ alias: 'banger-1', hostKeyPublic: publicKey }]),
    );
    assert.match((await runner.run(['ssh-keygen', '-F', 'banger-1', '-f', file])).stdout, /ssh-ed25519/);
  });
});
