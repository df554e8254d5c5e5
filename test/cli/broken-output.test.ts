/** Output that cannot be written, and readers that leave: real processes of the command line, and a daemon that is a script. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fakeDaemon } from '../client/fake-daemon.ts';
import { paced } from '../support/pace.ts';
import { operation, vm } from './cli.ts';

const BANGER = join(import.meta.dirname, '../../bin/banger.ts');
const LIMIT = { timeout: paced(60_000) };

/** A command line for the daemon at this socket, whose name is the one that clients look for. */
const envFor = (socketPath: string) => ({
  ...process.env,
  BANGER_HOME: dirname(socketPath),
  BANGER_PATHS_RUN: dirname(socketPath),
});

describe('output that cannot be written', LIMIT, () => {
  it('is said, and fails the command', async (t) => {
    const { socketPath } = await fakeDaemon(
      t,
      {
        'GET /v1/vms': { body: [vm('web')] },
        'GET /v1/operations': { body: [operation()] },
      },
      undefined,
      'bangerd.sock',
    );
    for (const words of [['--version'], ['--help'], ['ls'], ['ls', '--json'], ['operation', 'list', '--json']]) {
      const child = spawn('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, BANGER, ...words], {
        env: envFor(socketPath),
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      child.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      const [status] = await once(child, 'close');
      assert.equal(status, 1, `${words.join(' ')}: ${said}`);
      assert.match(said, /^banger: The output could not be written: .*ENOSPC.*\. What is there is not complete\.$/m);
      assert.doesNotMatch(said, /\n\s+at /);
    }
  });

  it('of nothing is no failure', () => {
    const { status, stderr } = spawnSync(process.execPath, [BANGER, '--version'], { encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, '']);
  });
});

describe('a reader that leaves', LIMIT, () => {
  it('ends what is followed at once, though nothing more comes', async (t) => {
    const { socketPath } = await fakeDaemon(
      t,
      { 'GET /v1/vms/web/logs?follow=true': (_request, response) => void response.writeHead(200).write('one\ntwo\n') },
      undefined,
      'bangerd.sock',
    );
    const child = spawn(process.execPath, [BANGER, 'logs', '-f', 'web'], {
      env: envFor(socketPath),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    await once(child.stdout, 'data');
    child.stdout.destroy();
    const [status] = await once(child, 'exit');
    assert.deepEqual([status, said], [0, '']);
  });
});
