/** TypeScript programs for tests of types: their files are not on disk, and only the relevant ones are checked. */
import { join } from 'node:path'
import ts from 'typescript'

const common: ts.CompilerOptions = {
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2023,
  // Without this, the types of browsers are read too, which takes a second.
  lib: ['lib.es2023.d.ts'],
  strict: true,
  noEmit: true,
  skipLibCheck: false,
  types: ['node']
}

/** Parsed declarations, shared by all programs of the process. */
const known = new Map<string, ts.SourceFile | undefined>()

/** @param sources  by file name in the folder; a package.json among them sets the kind of modules */
export function typeProgram (folder: string, sources: Readonly<Record<string, string>>): ts.Program {
  const own = new Map(Object.entries(sources).map(([name, source]) => [join(folder, name), source]))
  const host = ts.createCompilerHost(common)
  const { getSourceFile, fileExists, readFile } = host
  // The search for @types/node starts here.
  host.getCurrentDirectory = () => folder
  host.fileExists = name => own.has(name) || fileExists(name)
  host.readFile = name => own.get(name) ?? readFile(name)
  host.getSourceFile = (name, languageVersion) => {
    const source = own.get(name)
    if (source !== undefined) return ts.createSourceFile(name, source, languageVersion)
    const parsed = known.get(name) ?? getSourceFile(name, languageVersion)
    known.set(name, parsed)
    return parsed
  }
  return ts.createProgram([...own.keys()].filter(name => name.endsWith('.ts')), common, host)
}

/**
 * Checks only some files: the types of Node.js and Fastify would take most of the time.
 *
 * @param sources  by file name in the folder; they are checked
 * @param checked  other files that are checked
 * @returns errors in the sources as `text of the line: message`, in other files as `file: message`
 */
export function typeErrors (
  folder: string, sources: Readonly<Record<string, string>>, checked: RegExp
): readonly string[] {
  const program = typeProgram(folder, sources)
  const own = new Map(Object.entries(sources).map(([name, source]) => [join(folder, name), source]))
  const others = program.getSourceFiles().filter(({ fileName }) => checked.test(fileName))
  if (others.length === 0) throw new Error(`no file is called ${String(checked)}`)
  const files = [...program.getSourceFiles().filter(({ fileName }) => own.has(fileName)), ...others]
  const errors = [
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...files.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ]
  return errors.map(({ file, start, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, '\n')
    const source = own.get(file?.fileName ?? '')
    if (source === undefined) return `${file?.fileName}: ${message}`
    const { line } = file!.getLineAndCharacterOfPosition(start!)
    return `${source.split('\n')[line]!.trim()}: ${message}`
  })
}
