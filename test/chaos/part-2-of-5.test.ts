import { playPart } from './part.js'

playPart(1)
