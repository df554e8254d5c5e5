/** The machines that images are built in: kept and gone on in, given up, called off, and cut off with their daemon. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import type { OperationEvent } from '../../src/api/operation.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { ImageBuilds, stepsDone } from '../support/image-builds.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(480_000) };

/** A recipe whose second line runs in the machine that was kept after the first, where there is one. */
const inMachine = (line: string) => `run = ["mkdir -p /opt", "${line}"]`;

describe('the machine of an image build', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;
  let builds: ImageBuilds;

  before(async () => {
    host = await TestHost.create({ lean: true });
    builds = new ImageBuilds(host, join(host.home, 'recipes'));
    await mkdir(builds.recipes);
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

  it('goes on in the machine that was kept, which then has time and random numbers of its own', LIMIT, async () => {
    const facts = 'head -c 32 /dev/urandom | base64; date -u +%s; hostname; pwd; env | sort; ulimit -a';
    const lines = async (id: string) => (await builds.fileIn(id, '/opt/facts')).split('\n');
    const made: { built: ImageBuilt; lines: string[]; at: number }[] = [];
    for (const mark of ['one', 'two', 'three']) {
      const path = await builds.recipe('facts', inMachine(`{ ${facts}; } > /opt/facts # ${mark}`));
      const built = await builds.build(path);
      made.push({ built, lines: await lines(built.id), at: Date.now() / 1000 });
    }
    assert.deepEqual(
      made.map(({ built }) => stepsDone(built)[0]),
      ['boot', 'revive', 'revive'],
    );
    assert.equal(new Set(made.map((each) => each.lines[0])).size, 3, 'random numbers');
    for (const { lines, at } of made)
      assert.ok(Math.abs(Number(lines[1]) - at) < 60, `the clock: ${lines[1]} at ${at}`);
    assert.ok(Number(made[2]?.lines[1]) > Number(made[1]?.lines[1]), 'time goes on');
    const [booted = [], ...revived] = made.map((each) => each.lines.slice(2));
    assert.ok(booted.length > 10 && booted[0] === 'build-facts', booted.join('\n'));
    for (const each of revived) assert.deepEqual(each, booted, 'name, place, environment and limits');
    await host.assertQuiet('of machines that went on');
  });

  it('boots where the kept machine cannot go on, and keeps another', LIMIT, async () => {
    // the machine that went on before
    const layers = join(host.home, 'state/store/layers');
    const build = async (mark: string) =>
      await builds.build(await builds.recipe('facts', inMachine(`echo ${mark} > /opt/mark`)));
    for (const name of await readdir(layers)) {
      if (name.endsWith('.vmstate')) await truncate(join(layers, name), 1000);
      if (name.endsWith('.memory')) await truncate(join(layers, name), 4096);
    }
    const damaged = await build('one');
    assert.equal(stepsDone(damaged)[0], 'boot');
    assert.equal(await builds.fileIn(damaged.id, '/opt/mark'), 'one\n');
    assert.match(await readFile(join(host.home, 'state/bangerd.log'), 'utf8'), /a kept VM did not go on/);
    await builds.revived(await build('two'));
    await host.assertQuiet('of a machine that could not go on');
  });

  it(
    'that fails names the step, its exit code and its last words, and leaves nothing but the VM it was to keep',
    LIMIT,
    async () => {
      const path = await builds.recipe('facts', inMachine('echo on the way; echo oops >&2; exit 3'));
      const images = () => readdir(join(host.home, 'state/store/images'));
      const before = await images();
      const ran = await host.fails(
        1,
        ['image', 'build', path, '--keep'],
        [
          /Building facts: the step "run 2: echo on the way; .*" ended with 3\./,
          /It said last:\n +on the way\n +oops/,
          /banger ssh build-facts/,
        ],
      );
      assert.match(ran.stderr, /banger rm --force build-facts/);
      assert.equal(await host.guest('build-facts', 'hostname'), 'build-facts');
      await host.ok('rm', '--force', '--now', 'build-facts');
      await host.assertQuiet('of a build that failed');
      assert.deepEqual(await images(), before);
    },
  );

  it('ends a line that does not, also one that floods', LIMIT, async () => {
    const args = ['image', 'build', await builds.recipe('facts', `run_timeout = "3s"\n${inMachine('yes')}`)];
    await host.fails(7, args, [/step "run 2: yes" did not end within 3 s/, /run_timeout/]);
    await host.assertQuiet('of a line that floods');
  });

  it('is undone by Ctrl-C; with --detach it goes on by itself until it is cancelled', LIMIT, async () => {
    const path = await builds.recipe('facts', inMachine('sleep 1000'));
    const interrupted = host.begin(['image', 'build', path]);
    await interrupted.says(/run 2: sleep/);
    interrupted.child.kill('SIGINT');
    assert.equal((await interrupted.ended).status, 130);
    await host.assertQuiet('of Ctrl-C');
    const { id } = JSON.parse(await host.ok('image', 'build', path, '--detach', '--json'));
    await until('it has booted', async () => /run 2: sleep/.test(await host.ok('operation', 'logs', id)));
    assert.equal(JSON.parse(await host.ok('operation', 'show', id, '--json')).state, 'running');
    await host.ok('operation', 'cancel', id);
    await until(
      'it is undone',
      async () => JSON.parse(await host.ok('operation', 'show', id, '--json')).state !== 'running',
    );
    await host.assertQuiet('of a cancelled build');
  });

  it('cut off with its daemon leaves nothing, and the next one works', LIMIT, async () => {
    const path = await builds.recipe('cut', 'run = ["echo one > /opt-one", "echo two > /opt-two"]');
    const images = (await readdir(join(host.home, 'state/store/images'))).length;
    for (const [step, delayMs] of [
      ['clone', 200],
      ['boot', 300],
      ['run', 100],
      ['keep', 200],
      ['clean', 300],
      // the machine was kept by now
      ['revive', 100],
      ['revive', 900],
      // it takes some 50 ms where processors are fast
      ['checksum', 0],
    ] as const) {
      const { pid } = await host.client.call('status', {});
      const { id } = await host.client.call('buildImage', { body: { recipe: path, directory: '/', detach: true } });
      const reached = Promise.withResolvers<boolean>();
      const follow = host.follow(id, (event: OperationEvent) => {
        if (event.type === 'step' && event.step === step) reached.resolve(true);
      });
      void follow.then(() => reached.resolve(false));
      assert.ok(await reached.promise, `it came to ${step}`);
      await sleep(delayMs);
      process.kill(pid, 'SIGKILL');
      await until('the daemon is gone', () => !existsSync(`/proc/${pid}`));
      await host.daemon();
      await host.assertQuiet(`of a build cut off ${delayMs} ms after ${step}`);
      assert.deepEqual(await readdir(join(host.home, 'state/store/vms')), [], step);
      assert.equal(
        (await readdir(join(host.home, 'state/store/images'))).length,
        images,
        `${step}: those from before alone`,
      );
    }
    const built = await builds.build(path);
    assert.equal(await builds.fileIn(built.id, '/opt-two'), 'two\n');
  });
});
