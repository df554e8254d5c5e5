import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { cli, done, operation } from './cli.ts';

describe('image build', () => {
  it('asks for what the command line says', async () => {
    const bodies: unknown[] = [];
    const line = 'image build --name dev --package jq --package tree --run true --no-cache --keep --set vcpus=2';
    const events = { op1: [done({ result: { name: 'dev', built: false, reason: 'Nothing has changed.' } })] };
    const buildImage = ({ body }: { body: unknown }) => {
      bodies.push(body);
      return operation();
    };
    const { stdout } = await cli(line, { buildImage, events });
    const { directory: _, ...asked } = bodies[0] as Record<string, unknown>;
    assert.deepEqual(asked, {
      ...{ name: 'dev', packages: ['jq', 'tree'], run: ['true'], settings: ['vcpus=2'], noCache: true, keep: true },
    });
    assert.equal(stdout, 'dev is up to date: nothing has changed.\n');
  });
});
