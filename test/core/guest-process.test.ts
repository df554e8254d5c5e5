/** What runs in a VM of an OCI image. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  describeEnvironment,
  describeHealthUnit,
  describeProcess,
  describeUnit,
  resolveProcess,
} from '../../src/core/guest-process.ts';

const IMAGE = {
  entrypoint: ['/entry'],
  cmd: ['serve'],
  env: ['PATH=/app', 'A=1'],
  user: '1000',
  workdir: '/srv',
  stopSignal: 'SIGQUIT',
  healthcheck: null,
};

describe('the process of an OCI image', () => {
  it('is what the image says, unless something else was asked for', () => {
    assert.deepEqual(resolveProcess(IMAGE, {}).argv, ['/entry', 'serve']);
    assert.deepEqual(resolveProcess(IMAGE, { cmd: ['other'] }).argv, ['/entry', 'other']);
    assert.deepEqual(resolveProcess(IMAGE, { entrypoint: ['/mine'] }).argv, ['/mine']);
    assert.deepEqual(resolveProcess(IMAGE, { entrypoint: [] }).argv, []);
    const asked = resolveProcess(IMAGE, { env: ['A=2', 'B=3'], user: 'web', workdir: '/w' });
    assert.deepEqual(
      [asked.env, asked.user, asked.workdir, asked.stopSignal],
      [['PATH=/app', 'A=2', 'B=3'], 'web', '/w', 3],
    );
  });

  it('is nothing where the image names an init, or a shell that would end at once', () => {
    const argv = (entrypoint: string[]) => resolveProcess({ ...IMAGE, entrypoint, cmd: [] }, {}).argv;
    for (const idle of [['/bin/bash'], ['sh'], ['/lib/systemd/systemd', '--unit=x'], ['/sbin/init']])
      assert.deepEqual(argv(idle), []);
    assert.deepEqual(argv(['sh', '-c', 'x']), ['sh', '-c', 'x']);
  });

  it('signals go by name and number', () => {
    const stop = (stopSignal: string) => resolveProcess({ ...IMAGE, stopSignal }, {}).stopSignal;
    assert.deepEqual(['SIGTERM', 'int', '9', 'SIGRTMIN+3', 'SIGNONE', '', '99'].map(stop), [15, 2, 9, 37, 15, 15, 15]);
  });

  it('reaches the guest byte by byte, and shells with its quotes', () => {
    const process = resolveProcess(IMAGE, { env: ["Q=it's\nso", 'bad-name=1', 'Z=a\0b'], cmd: ['a b'] });
    assert.equal(
      describeProcess(process),
      "arg=/entry\0arg=a b\0env=PATH=/app\0env=A=1\0env=Q=it's\nso\0env=bad-name=1\0user=1000\0directory=/srv\0stop=3\0",
    );
    assert.equal(describeEnvironment(process), "export PATH='/app'\nexport A='1'\nexport Q='it'\\''s\nso'\n");
    assert.match(describeUnit(process), /^KillSignal=3$/m);
    assert.equal(describeHealthUnit(process), '');
  });

  it('is asked whether it is well as the image says, or not at all', () => {
    const health = (healthcheck: string[] | null, healthTimes = {}) =>
      resolveProcess({ ...IMAGE, healthcheck, healthTimes }, {}).health;
    for (const none of [null, [], ['NONE'], ['CMD'], ['CMD-SHELL'], ['odd', 'x']])
      assert.equal(health(none), undefined);
    assert.equal(resolveProcess({ ...IMAGE, healthcheck: ['CMD', 'x'] }, { entrypoint: [] }).health, undefined);
    assert.deepEqual(health(['CMD', '/check', 'a b']), {
      ...{ argv: ['/check', 'a b'], intervalMs: 30_000, timeoutMs: 30_000 },
      ...{ startPeriodMs: 0, startIntervalMs: 5000, retries: 3 },
    });
    const times = { intervalMs: 1e30, timeoutMs: 0.5, startPeriodMs: -1, retries: 2.4 };
    const limited = health(['CMD-SHELL', 'curl -f localhost || exit 1'], times);
    assert.deepEqual(limited?.argv, ['/bin/sh', '-c', 'curl -f localhost || exit 1']);
    assert.deepEqual(
      [limited?.intervalMs, limited?.timeoutMs, limited?.startPeriodMs, limited?.retries],
      [86_400_000, 100, 0, 2],
    );
    const process = resolveProcess({ ...IMAGE, healthcheck: ['CMD', 'a', 'b'], healthTimes: { intervalMs: 200 } }, {});
    assert.match(describeProcess(process), /check=a\0check=b\0check-interval=200\0.*check-retries=3\0$/);
    assert.match(describeUnit(process), /^Wants=banger-health.service$/m);
    assert.match(describeHealthUnit(process), /^BindsTo=banger-process.service$/m);
  });
});
