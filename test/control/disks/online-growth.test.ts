import assert from 'node:assert/strict';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { runInGuest } from '../../../src/control/disks/online-growth.ts';
import type { Host } from '../../../src/control/host.ts';
import { connectAgent } from '../../../src/guest/agent/agent.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { TYPE } from '../../../src/guest/agent/frames.ts';
import { startFakeAgent } from '../../support/fake-agent.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** A host whose guests run scripts over SSH, which end with 0, and that notes what becomes of agents. */
function sshHost() {
  const scripts: string[] = [];
  const failed: unknown[] = [];
  const exec = async (script: string) => {
    scripts.push(script);
    const channel = Object.assign(new PassThrough(), { stderr: new PassThrough() });
    channel.resume().once('end', () => channel.emit('close', 0));
    return channel;
  };
  const host = {
    agents: { failed: (_: unknown, error: unknown) => void failed.push(error) },
    guests: { get: async () => ({ exec }) },
  };
  return { host: host as unknown as Pick<Host, 'agents' | 'guests'>, scripts, failed };
}

async function agentThat(t: TestContext, answer: 'ends' | 'is lost') {
  const socket = join(await tempDir(t), 'v.sock');
  const fake = await startFakeAgent(socket, {
    answer: ({ type }) => {
      if (type !== TYPE.exec || answer === 'ends') return undefined;
      fake.reset();
      return 'silence';
    },
  });
  const agent = await connectAgent(socket, { timeoutMs: 5000 });
  t.after(async () => {
    await agent[Symbol.asyncDispose]();
    await fake[Symbol.asyncDispose]();
  });
  return agent;
}

describe('what grows a mounted file system', () => {
  it('runs through the agent, without a login', async (t) => {
    const { host, scripts, failed } = sshHost();
    assert.equal((await runInGuest(host, sampleVm(), await agentThat(t, 'ends'), 'grow')).exitCode, 0);
    assert.deepEqual([scripts, failed], [[], []]);
  });

  it('runs over SSH in a guest without an agent, and in one whose agent is lost meanwhile', async (t) => {
    const { host, scripts, failed } = sshHost();
    assert.equal((await runInGuest(host, sampleVm(), undefined, 'grow')).exitCode, 0);
    assert.equal((await runInGuest(host, sampleVm(), await agentThat(t, 'is lost'), 'grow')).exitCode, 0);
    assert.equal(scripts.length, 2);
    for (const script of scripts) assert.match(script, /\ngrow$/);
    const [error, ...others] = failed;
    assert.ok(error instanceof AgentError && error.trouble === 'gone');
    assert.deepEqual(others, [], 'nobody uses it again before it is connected anew');
  });
});
