/** The agent itself, compiled with sanitizers, as a process of this machine: over a socket, and over fcqemu's port. */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { WakeRequest } from '../../../src/guest/agent/wake-request.ts';
import { type GuestCommand, sessionScript } from '../../../src/guest/command.ts';
import { agentSkip, compileAgent, type RunningAgent, runOverPort, runOverSocket } from '../../support/agent-program.ts';
import { paced } from '../../support/pace.ts';

describe('the agent', { skip: agentSkip }, () => {
  let compiled: string;
  before(async () => {
    compiled = await compileAgent();
  });

  for (const [name, run] of [
    ['over a socket', runOverSocket],
    ['over fcqemu’s port', runOverPort],
  ] as const) {
    describe(name, () => {
      it('says what it is, and answers', async (t) => {
        const agent = await (await run(t, compiled)).connect();
        assert.deepEqual([agent.hello.protocol, agent.hello.version], [1, '9.9.9']);
        assert.ok(agent.hello.features.has('exec'));
        assert.equal(agent.hello.frozenBy, undefined);
        await agent.ping();
      });

      it('runs commands: output, errors, exit status', async (t) => {
        const agent = await (await run(t, compiled)).connect();
        const channel = agent.exec({ argv: ['sh', '-c', 'cat; echo err >&2; exit 7'], env: { A: 'b' } });
        const [out, err] = [text(channel), text(channel.stderr)];
        channel.end('in\n');
        assert.deepEqual([await out, await err, await channel.ended], ['in\n', 'err\n', { code: 7, signal: null }]);
        if (process.getuid?.() !== 0) return;
        const script = 'exec "$@"';
        for (const how of [{}, { script }, { script, plain: { enters: false, assignments: 0 } }]) {
          const asked = agent.exec({ argv: ['nice'], ...how });
          asked.end();
          assert.equal(await text(asked), '0\n', 'the priority of anybody, and not the agent’s');
          await asked.ended;
        }
      });

      it('runs a command as the login shell would, and without it where that reads nothing', async (t) => {
        const running = await run(t, compiled);
        const agent = await running.connect();
        const bare = async (request: GuestCommand) => {
          const { script, operands, plain } = sessionScript(request, 'TOKEN', false);
          const channel = agent.exec({ argv: operands, script, plain });
          channel.end();
          const [out, err, end] = [await text(channel), await text(channel.stderr), await channel.ended];
          const began = /^\W?banger-exec TOKEN \d+\n/m.exec(out)?.[0] ?? '';
          assert.equal(began === '', end.plain === true, 'a shell says when it begins');
          return { out: out.replace(began, ''), err, code: end.code, plain: end.plain ?? false };
        };
        const print = ['sh', '-c', 'echo $PWD $A; exit 3'];
        const seen = { out: '/ b c\n', err: '', code: 3 };
        const request = { argv: print, cwd: '/', env: { A: 'b c' } };
        assert.deepEqual(await bare(request), { ...seen, plain: true });
        assert.deepEqual(await bare({ argv: ['pwd'], cwd: '/proc/1' }).then(({ out }) => out), '/proc/1\n');
        // what the shell has to say for itself
        const missing = await bare({ argv: ['no-such-program'] });
        assert.deepEqual([missing.code, missing.plain], [127, false]);
        assert.match(missing.err, /no-such-program: not found/);
        assert.deepEqual(await bare({ argv: ['true'], cwd: '/none' }).then(({ code, plain }) => [code, plain]), [
          1,
          false,
        ]);
        assert.deepEqual(await bare({ argv: ['true'], cwd: 'proc' }).then(({ code, plain }) => [code, plain]), [
          1,
          false,
        ]);
        assert.equal((await bare({ argv: ['/proc'] })).code, 126);
        const unmarked = join(running.directory, 'unmarked');
        await writeFile(unmarked, 'echo read by a shell\n', { mode: 0o755 });
        assert.equal((await bare({ argv: [unmarked] })).out, 'read by a shell\n');
        assert.deepEqual(await bare({ argv: ['true'], env: { PATH: '/none' } }).then(({ code }) => code), 127);
        // start-up files are those of bash
        if (!/^root:.*\/bash$/m.test(await readFile('/etc/passwd', 'utf8'))) return;
        const start = join(running.directory, 'bash.bashrc');
        await writeFile(start, `# said\n  \n[ -z "$PS1" ] && return\nexport A=start\n`);
        assert.deepEqual(await bare(request), { ...seen, plain: true });
        for (const text of ['export B=start\n', 'case $- in\n*i*) ;;\nesac\n', `#${' long'.repeat(100)}\ntrue\n`]) {
          await writeFile(start, text);
          assert.deepEqual(await bare(request), { ...seen, plain: false }, text);
        }
      });

      it('passes on much output and much input, no faster than it is taken', async (t) => {
        const agent = await (await run(t, compiled)).connect();
        const channel = agent.exec({ argv: ['cat'] });
        const sent = randomBytes(3_000_000);
        channel.end(sent);
        await delay(100);
        assert.ok((await buffer(channel)).equals(sent));
        assert.deepEqual(await channel.ended, { code: 0, signal: null });
      });

      for (const which of ['output', 'errors']) {
        it(`goes on when much of its ${which} was left for a while, and its input is open`, async (t) => {
          const agent = await (await run(t, compiled)).connect();
          const to = which === 'errors' ? ' >&2' : '';
          const channel = agent.exec({ argv: ['sh', '-c', `head -c 3000000 /dev/zero${to}`] });
          const source = which === 'errors' ? channel.stderr : channel;
          let seen = 0;
          source.on('data', (chunk: Buffer) => {
            // as often as a slow client makes the daemon wait
            if (Math.floor((seen + chunk.length) / 500_000) > Math.floor(seen / 500_000)) {
              source.pause();
              setTimeout(() => source.resume(), 100);
            }
            seen += chunk.length;
          });
          assert.deepEqual(await channel.ended, { code: 0, signal: null });
          assert.equal(seen + source.readableLength, 3_000_000);
        });
      }

      it('says when the guest is ready: at once, later, or that nobody will say so', async (t) => {
        const running = await run(t, compiled);
        const agent = await running.connect();
        assert.equal(await agent.ready(), undefined);
        const file = (name: string) => join(running.directory, 'run', name);
        await writeFile(file('ready-announced'), '');
        const later = agent.ready();
        await agent.ping();
        await writeFile(file('ready-said.new'), '9.12 nginx.service a@b.service\n');
        await rename(file('ready-said.new'), file('ready-said'));
        const said = { uptimeMs: 9120, failedUnits: ['nginx.service', 'a@b.service'] };
        assert.deepEqual([await later, await agent.ready()], [said, said]);
      });
    });
  }

  describe('before memory is saved', () => {
    it('freezes all groups but that of init, and thaws them by the token', async (t) => {
      const running = await runOverSocket(t, compiled);
      const frozen = await groups(running, { 'system.slice': 2, 'user.slice': 1, 'init.scope': 1 });
      const agent = await running.connect();
      const quiesced = await agent.quiesce('t1');
      assert.deepEqual(quiesced, { state: 'frozen', frozen: 3, notFrozen: 0, names: [] });
      assert.deepEqual(await frozen(), { 'system.slice': '1', 'user.slice': '1', 'init.scope': '0' });
      await assert.rejects(agent.quiesce('t2'), /it is frozen already/);
      await assert.rejects(agent.thaw('t2'), { trouble: 'refused', message: 'it was frozen under another token' });
      assert.equal((await running.connect()).hello.frozenBy, 't1');
      await agent.thaw('t1');
      assert.deepEqual(await frozen(), { 'system.slice': '0', 'user.slice': '0', 'init.scope': '0' });
      await agent.thaw('t1');
    });

    it('leaves what somebody else has frozen, and names what does not stand still', async (t) => {
      const running = await runOverSocket(t, compiled);
      const frozen = await groups(running, { docker: 1, 'user.slice': 1 });
      await writeFile(join(running.directory, 'groups/docker/cgroup.freeze'), '1');
      await writeFile(join(running.directory, 'groups/user.slice/cgroup.events'), 'populated 1\nfrozen 0\n');
      const agent = await running.connect();
      const { names, ...counts } = await agent.quiesce('t');
      assert.deepEqual(counts, { state: 'frozen', frozen: 0, notFrozen: 1 });
      assert.equal(names.length, 1);
      await agent.thaw();
      assert.deepEqual(await frozen(), { docker: '1', 'user.slice': '0' });
    });

    it('thaws by itself when the host says no more, and not after a restore before it was woken', async (t) => {
      const running = await runOverPort(t, await compileAgent(['THAW_AFTER_MS=1200']));
      const frozen = await groups(running, { 'system.slice': 1 });
      const agent = await running.connect();
      await agent.quiesce('t');
      // its patience begins again with each word
      for (let word = 0; word < 4; word++) {
        await delay(350);
        assert.deepEqual(await frozen(), { 'system.slice': '1' });
        await agent.ping();
      }
      await until(async () => (await frozen())['system.slice'] === '0');
      await agent.quiesce('u');
      running.restored();
      await delay(1500);
      assert.deepEqual(await frozen(), { 'system.slice': '1' });
      const again = await running.connect();
      assert.equal(again.hello.frozenBy, 'u');
      await again.ping();
      await delay(1500);
      assert.deepEqual(await frozen(), { 'system.slice': '1' });
      await again.thaw();
      assert.deepEqual(await frozen(), { 'system.slice': '0' });
    });

    it('only writes what is to be written where there are no groups', async (t) => {
      const agent = await (await runOverSocket(t, compiled)).connect();
      assert.deepEqual(await agent.quiesce('t'), { state: 'synced', frozen: 0, notFrozen: 0, names: [] });
    });
  });

  describe('after memory was loaded', {
    skip: process.getuid?.() !== 0 && 'the kernel takes seeds of root only',
  }, () => {
    it('seeds itself and sets the clock, once for each generation, and goes on', async (t) => {
      const running = await runOverSocket(t, compiled);
      const frozen = await groups(running, { 'system.slice': 1 });
      const agent = await running.connect();
      await agent.quiesce('t');
      const request = wake({ wallClockNs: BigInt(Date.now() + 3_600_000) * 1_000_000n });
      const report = await agent.wake(request);
      await agent.ping(); // it answers first and thaws then, before it reads on
      assert.deepEqual([...report.did.keys()], ['seed', 'clock']);
      assert.ok(Math.abs((report.did.get('clock') ?? 0) - 3_600_000) < paced(5000));
      assert.deepEqual(await frozen(), { 'system.slice': '0' });
      await agent.quiesce('u');
      assert.deepEqual((await agent.wake({ ...request, wallClockNs: 1n })).did, report.did);
      await agent.ping();
      assert.deepEqual(await frozen(), { 'system.slice': '0' });
      assert.equal((await running.connect()).hello.generation, request.generation);
    });

    it('stays frozen when the request is none', async (t) => {
      const running = await runOverSocket(t, compiled);
      const frozen = await groups(running, { 'system.slice': 1 });
      const agent = await running.connect();
      await agent.quiesce('t');
      for (const wrong of [
        { seed: Buffer.alloc(31) },
        { generation: '' },
        { wallClockNs: 0n },
        { mode: 'new' },
        { mode: 'other' as 'same' },
      ] as Partial<WakeRequest>[]) {
        await assert.rejects(agent.wake(wake(wrong)), /the request to wake is malformed/);
      }
      assert.deepEqual(await frozen(), { 'system.slice': '1' });
    });
  });
});

/** Control groups as they are for this agent: each with so many processes, the first of which is this one. */
async function groups({ directory }: RunningAgent, processes: Record<string, number>) {
  const place = join(directory, 'groups');
  await mkdir(place);
  await writeFile(join(place, 'cgroup.controllers'), '');
  for (const [name, count] of Object.entries(processes)) {
    await mkdir(join(place, name));
    await writeFile(join(place, name, 'cgroup.freeze'), '0');
    await writeFile(join(place, name, 'cgroup.events'), 'populated 1\nfrozen 1\n');
    const ids = Array.from({ length: count }, () => `${process.pid}\n`);
    await writeFile(join(place, name, 'cgroup.procs'), ids.join(''));
  }
  return async () => {
    const states: Record<string, string> = {};
    for (const name of Object.keys(processes)) {
      // a real group takes one digit in place of the other
      states[name] = (await readFile(join(place, name, 'cgroup.freeze'), 'utf8')).slice(0, 1);
    }
    return states;
  };
}

function wake(change: Partial<WakeRequest>): WakeRequest {
  const wallClockNs = BigInt(Date.now()) * 1_000_000n;
  return { generation: randomUUID(), seed: randomBytes(64), wallClockNs, mode: 'same', ...change };
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + paced(10_000);
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, 'it did not come about');
    await delay(50);
  }
}
