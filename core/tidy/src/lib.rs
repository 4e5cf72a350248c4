//! (door sign to be written with the room)
