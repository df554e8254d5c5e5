/** The daemon's end of an exec connection whose guest is a directory of this machine. */
import { spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { createFrameDecoder, encodeFrame, FRAME, type FrameType } from '../../src/api/exec-frames.ts';

export function runIn(cwd: string, [program = '', ...args]: string[], socket: Duplex): void {
  const child = spawn(program, args, { cwd });
  const forward = (type: FrameType) => (chunk: Buffer) => void socket.write(encodeFrame(type, chunk));
  child.stdout.on('data', forward(FRAME.stdout));
  child.stderr.on('data', forward(FRAME.stderr));
  child.stdin.on('error', () => {});
  const decode = createFrameDecoder();
  socket.on('data', (chunk: Buffer) => {
    for (const { type, payload } of decode(chunk)) {
      if (type === FRAME.stdin) child.stdin.write(payload);
      if (type === FRAME.stdinEnd) child.stdin.end();
    }
  });
  socket.on('close', () => child.kill());
  child.on('close', (code) => socket.end(encodeFrame(FRAME.exit, JSON.stringify({ code, signal: null }))));
}
